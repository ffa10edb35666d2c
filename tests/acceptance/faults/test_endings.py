"""Findings of a second pair of eyes: odd rows, odd names, odd ends."""

import json
import os
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest

from prefect_parallel_run import (
    FileDataset,
    LimitExceededError,
    NothingSucceededError,
    OutputError,
    ParallelRunStep,
    TabularDataset,
)
from prefect_parallel_run.cli import main

from ..conftest import ours, wait_until
from .conftest import ledger


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_lost_in_shutdown_harms_nothing(workshop, number, monkeypatch, caplog):
    """All is committed by then: the run succeeds, with a warning."""
    monkeypatch.setattr("prefect_parallel_run.dispatch.workers._PATIENCE", 10)
    result = workshop.step("ends_badly.py", "--signal", str(int(number)), process_count_per_node=1)()
    assert result.items_succeeded == 100
    assert "while it ran shutdown() of the entry script" in caplog.text


def odd(workshop, what, **fields):
    return workshop.step("odd_rows.py", "--what", what, run_max_try=1, error_threshold=0, **fields)


def test_columns_of_one_name_are_refused_in_jsonl(workshop):
    """Rather than one of them dropped."""
    with pytest.raises(LimitExceededError, match="columns of the same name would overwrite each other: a"):
        odd(workshop, "same_names", append_row_format="jsonl")()


@pytest.mark.parametrize("what", ["returns", "frame_returns"])
def test_a_carriage_return_in_a_field_does_not_end_the_row(workshop, what):
    """Read by pandas, and by another step."""
    result = odd(workshop, what, append_row_format="csv", append_row_file_name="r.csv")()
    frame = pd.read_csv(result.output_file)
    assert len(frame) == 100
    assert frame.iloc[0, 0] == "a\rb"
    second = workshop.step("echo.py", inputs=result, output=workshop.folder / "o", mini_batch_size="1KB")()
    assert second.items_total == second.items_succeeded == 100


def test_rows_that_parquet_cannot_hold_are_told_in_words(workshop):
    """When they are written, or when they are returned."""
    with pytest.raises(OutputError, match="cannot be written as parquet"):
        odd(workshop, "empty_struct", append_row_format="parquet")()
    with pytest.raises(LimitExceededError, match="the rows have no columns"):
        odd(workshop, "no_columns", append_row_format="parquet", output=workshop.folder / "o")()


def test_dates_and_more_rows_than_items(workshop, caplog):
    """ISO 8601 in JSON; and one warning for a run that returns more."""
    result = odd(workshop, "dates", append_row_format="jsonl")()
    assert json.loads(Path(result.output_file).read_text().splitlines()[0])["value"].startswith("2024-01-31T10:00")
    more = odd(workshop, "more", output=workshop.folder / "o")()
    assert (more.rows, more.items_succeeded) == (110, 100)
    assert caplog.text.count("run() returned 11 rows for 10 items of mini-batch") >= 1
    told = [record for record in caplog.records if "run() returned 11 rows" in record.getMessage()]
    assert len({record.getMessage() for record in told}) == 1


def test_file_names_that_are_no_text(workshop):
    """They can be read, and an error that has one in it is told like any other."""
    folder = os.fsencode(workshop.folder / "odd")
    os.mkdir(folder)
    for name in (b"a.txt", b"b\xff.txt", b"c d'\".txt"):
        with open(os.path.join(folder, name), "w") as file:
            file.write("x")
    result = workshop.step("echo.py", inputs=workshop.folder / "odd")()
    assert result.items_succeeded == 3
    step = workshop.step(
        "odd_rows.py", "--what", "undecodable", inputs=workshop.folder / "odd", mini_batch_size=2, output=workshop.folder / "o"
    )
    with pytest.raises(NothingSucceededError, match="cannot read"):
        step()


def test_code_below_the_script_counts(workshop):
    """Without source_directory too: a changed module in a sub-folder is a changed script."""
    code = workshop.folder / "code"
    (code / "lib").mkdir(parents=True)
    (code / "script.py").write_text("from lib.util import f\ndef run(m): return [f(x) for x in m]\n")
    (code / "lib" / "util.py").write_text("def f(x): return 1\n")

    def run():
        config = workshop.config(str(code / "script.py"), source_directory=None)
        return ParallelRunStep("code", config, inputs=workshop.files, output=workshop.output)()

    first = run()
    assert run().reused
    (code / "lib" / "util.py").write_text("def f(x): return 2\n")
    again = run()
    assert not again.reused
    assert Path(again.output_file).read_text().split() == ["2"] * 100
    assert first.run_id != again.run_id


def test_reuse_is_judged_by_the_limits_of_today(workshop):
    """A result with failures is no result for a step that forgives none."""
    assert workshop.step("short.py").__call__().items_failed > 0
    with pytest.raises(LimitExceededError):
        workshop.step("short.py", error_threshold=0)()


def test_a_summary_is_reused_only_while_its_output_is_as_it_was(workshop):
    """A file that the script has written and somebody has deleted is written again."""
    arguments = ("--out", "{output}")
    first = workshop.step("writes.py", *arguments, output_action="summary_only")()
    assert workshop.step("writes.py", *arguments, output_action="summary_only")().reused
    next(workshop.output.glob("*.model")).unlink()
    again = workshop.step("writes.py", *arguments, output_action="summary_only")()
    assert not again.reused
    assert first.run_id != again.run_id
    assert len(list(workshop.output.glob("*.model"))) == 10


def test_resume_puts_a_result_together_again_that_is_gone(workshop, capsys):
    """From the parts; nothing is run."""
    result = workshop.step()()
    text = Path(result.output_file).read_bytes()
    Path(result.output_file).unlink()
    assert main(["resume", result.run_directory]) == 0
    assert Path(result.output_file).read_bytes() == text
    assert len(workshop.invocations()) == 10
    capsys.readouterr()


def test_odd_characters_in_the_output_path(workshop, capsys):
    """Verify reads the ledger that is there, and makes none."""
    output = workshop.folder / "out #1 50%25?"
    result = workshop.step(output=output)()
    assert main(["verify", result.run_directory]) == 0
    assert sorted(path.name for path in workshop.folder.iterdir()) == ["files", "invocations.txt", output.name]
    capsys.readouterr()


@pytest.mark.parametrize("name", ["ledger.sqlite", "plan.parquet"])
@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_a_damaged_run_directory_is_told_in_words(workshop, name, damage, capsys):
    """By every command, with exit code 1 and no traceback."""
    result = workshop.step(run_max_try=1)()
    path = Path(result.run_directory, name)
    if damage == "gone":
        path.unlink()
    else:
        os.truncate(path, 100)
    for command in (
        (["verify"], ["replay", "--mini-batch", "0"]) if name == "plan.parquet" else (["verify"], ["show"], ["failed"])
    ):
        assert main([command[0], result.run_directory, *command[1:]]) == 1
        said = capsys.readouterr()
        assert name in said.out + said.err
        assert "Traceback" not in said.out + said.err
    assert damage != "gone" or not path.exists()


def test_replay_offers_what_a_child_offers(workshop, capsys):
    """Azure's module name; and --json prints JSON alone."""
    result = workshop.step("context_facts.py")()
    assert main(["replay", result.run_directory, "--mini-batch", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 10


def test_a_failed_replay_closes_the_event_loop(workshop, capsys):
    """An unclosed one would be a ResourceWarning, which is an error here; its tasks would never see their end."""
    options = {"run_max_try": 1, "error_threshold": -1, "isolate_failed_items": False}
    result = workshop.step("async_steps.py", "--how", "gather", "--poison", "1", **options)()
    assert main(["replay", result.run_directory, "--mini-batch", "1"]) == 1
    assert capsys.readouterr().out.splitlines() == ["cancelled left over", "cancelled heart"]


def test_fewer_tries_on_resume_are_kept_to(driver, workshop, monkeypatch, capsys):
    """A mini-batch that has had as many tries already has failed."""
    monkeypatch.setenv("DRIVER_POISON", "f000.txt")
    process = driver.start(seconds=0, retry_delay_seconds=600, run_max_try=5, isolate_failed_items=False)
    wait_until(
        lambda: driver.runs and ledger(driver.runs[0], "SELECT COUNT(*) FROM mini_batches WHERE state='succeeded'") == [(49,)]
    )
    process.kill()
    process.communicate()
    wait_until(lambda: not ours())
    run = str(driver.runs[0])
    assert main(["resume", run, "--run-max-try", "1"]) == 0
    assert ledger(run, "SELECT state, attempts FROM mini_batches WHERE mini_batch=0") == [("failed", 1)]
    assert main(["verify", run]) == 0
    capsys.readouterr()


def test_a_moved_run_directory_is_refused(workshop, capsys):
    """Rather than the old place made again."""
    result = workshop.step()()
    moved = workshop.folder / "moved"
    shutil.move(workshop.output, moved)
    run = moved / "_parallel_run" / result.run_id
    assert main(["resume", str(run)]) == 1
    assert "belongs in" in capsys.readouterr().err
    assert not workshop.output.exists()


def test_a_locked_run_leaves_no_plan_behind(workshop):
    """A second start is refused, and cleans up after itself."""
    from prefect_parallel_run import RunLockedError
    from prefect_parallel_run.runs.run_directory import RunDirectory

    with pytest.raises(LimitExceededError) as caught:
        workshop.step("poison.py", "--how", "raise", "--poison", "0", error_threshold=0, run_max_try=1)()
    run = Path(caught.value.run_directory)
    with RunDirectory(run).lock(), pytest.raises(RunLockedError):
        workshop.step("poison.py", "--how", "raise", "--poison", "0", error_threshold=20, run_max_try=1)()
    assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_another_steps_result_is_not_replaced_in_silence(workshop, caplog):
    """Two steps with one output: the second warns."""
    workshop.step(name="first")()
    workshop.step(name="second")()
    assert "the result of run first-" in caplog.text


def test_text_that_is_not_utf8_and_carriage_returns_in_json(workshop):
    """Named with file and place; a carriage return within a line of JSON ends no record."""
    (workshop.folder / "l.csv").write_bytes("a,b\n1,é\n".encode("latin-1"))
    step = workshop.step("echo.py", inputs=TabularDataset.from_delimited_files([workshop.folder / "l.csv"]), error_threshold=0)
    with pytest.raises(LimitExceededError, match=r"l\.csv, 1 records from 1 on: is not UTF-8"):
        step()
    (workshop.folder / "r.jsonl").write_bytes(b'{"a": 1}\r\n{"a":\r 2}\n')
    inputs = TabularDataset.from_json_lines_files([workshop.folder / "r.jsonl"])
    result = workshop.step("echo.py", inputs=inputs, output=workshop.folder / "o", error_threshold=0)()
    assert result.items_succeeded == 2


def test_arguments_and_output_as_texts(workshop):
    """A text is no list of arguments; a file URL is read as one."""
    with pytest.raises(ValueError, match="expected a list"):
        ParallelRunStep("a", workshop.config(), inputs=workshop.files, output=workshop.output, arguments="-x 1")
    inputs = FileDataset.from_files(workshop.files)
    result = workshop.step(inputs=inputs, output=f"file://{workshop.folder}/a%20b")()
    assert Path(result.output_file).parent == workshop.folder / "a b"
