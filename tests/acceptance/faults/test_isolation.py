"""isolate_failed_items: the guilty stand alone, the others' rows are published."""

import json
from pathlib import Path

import pandas as pd
import pytest

from prefect_parallel_run import LimitExceededError, TabularDataset
from prefect_parallel_run.cli import main

from .conftest import IN_FULL, ledger

pytestmark = pytest.mark.usefixtures("shared_cluster")


def failed_items(result):
    return [json.loads(line) for line in Path(result.run_directory, "failed_items.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("how", ["raise", "exit", "kill", "hang", "none"])
def test_two_guilty_files_of_a_hundred(workshop, how):
    """For exceptions, crashes, timeouts and wrong types alike."""
    step = workshop.step(
        "guilty.py",
        "--how",
        how,
        "--guilty",
        "f013.txt,f057.txt",
        isolate_failed_items=True,
        run_invocation_timeout=5 if how == "hang" else 60,
        run_max_try=2,
    )
    result = step()
    assert (result.items_succeeded, result.items_failed, result.mini_batches_failed) == (98, 2, 0)
    expected = [f"f{number:03d}.txt" for number in range(100) if number not in (13, 57)]
    assert Path(result.output_file).read_text().split() == expected
    told = failed_items(result)
    assert [Path(entry["path"]).name for entry in told] == ["f013.txt", "f057.txt"]
    assert ledger(result.run_directory, "SELECT MAX(attempts) FROM mini_batches") == [(2,)]
    assert main(["verify", result.run_directory]) == 0


def test_a_busy_service_fails_no_item(workshop):
    """Each mini-batch, and each piece, is refused once by RetryLater: only the guilty files fail."""
    seen = workshop.folder / "seen"
    seen.mkdir()
    words = ("--guilty", "f013.txt,f057.txt", "--seen", str(seen))
    result = workshop.step("busy.py", *words, isolate_failed_items=True, run_max_try=2)()
    assert (result.items_succeeded, result.items_failed) == (98, 2)
    assert [Path(entry["path"]).name for entry in failed_items(result)] == ["f013.txt", "f057.txt"]
    assert main(["verify", result.run_directory]) == 0


def test_guilty_items_are_judged_by_error_threshold(workshop):
    """Two are two, not twenty."""
    arguments = ("--how", "raise", "--guilty", "f013.txt,f057.txt")
    options = {"isolate_failed_items": True, "run_max_try": 1}
    assert workshop.step("guilty.py", *arguments, error_threshold=2, **options)().items_failed == 2
    step = workshop.step("guilty.py", *arguments, error_threshold=1, output=workshop.folder / "other", **options)
    with pytest.raises(LimitExceededError, match="error_threshold exceeded: 2 failed items, 1 allowed"):
        step()


def test_guilty_items_are_tried_again_when_somebody_wants_that(workshop, capsys, caplog):
    """They alone, once each; the rows of the others stay where they are."""
    mended, options = workshop.folder / "mended", {"isolate_failed_items": True, "run_max_try": 1, "error_threshold": 5}
    words = ("--how", "raise", "--guilty", "f013.txt,f057.txt", "--mended", str(mended))
    result = workshop.step("guilty.py", *words, **options)()
    pieces = ledger(result.run_directory, "SELECT COUNT(*) FROM pieces")
    assert main(["resume", result.run_directory, "--retry-failed"]) == 0
    assert ledger(result.run_directory, "SELECT COUNT(*) FROM pieces") == pieces  # guilty still
    mended.touch()
    assert main(["resume", result.run_directory, "--retry-failed"]) == 0
    assert "100 of 100 items succeeded, 0 failed" in capsys.readouterr().out
    assert ledger(result.run_directory, "SELECT COUNT(*) FROM pieces") == pieces
    assert Path(result.output_file).read_text().split() == [f"f{number:03d}.txt" for number in range(100)]
    assert main(["verify", result.run_directory]) == 0
    assert main(["resume", result.run_directory, "--retry-failed"]) == 0
    assert "nothing to retry" in caplog.text


@pytest.mark.parametrize("forgiven", [5, 50])
def test_isolation_may_be_turned_on_afterwards(workshop, forgiven):
    """Of a run that was given up, or was finished with whole mini-batches forgiven; what is finished is not run again."""
    words, options = ("--how", "raise", "--guilty", "f013.txt,f057.txt"), {"run_max_try": 1, "process_count_per_node": 1}
    first = workshop.step("guilty.py", *words, error_threshold=forgiven, **options)
    if forgiven == 5:
        with pytest.raises(LimitExceededError):
            first()
    else:
        assert first().items_failed == 20
    (run,) = workshop.output.glob("_parallel_run/*")
    before = ledger(run, "SELECT * FROM attempts ORDER BY mini_batch")
    result = workshop.step("guilty.py", *words, error_threshold=5, isolate_failed_items=True, **options)()
    assert Path(result.run_directory) == run
    assert (result.items_succeeded, result.items_failed, result.mini_batches_failed) == (98, 2, 0)
    after = ledger(run, "SELECT * FROM attempts ORDER BY mini_batch")
    assert len(after) == 10
    assert set(before) <= set(after)
    assert main(["verify", str(run)]) == 0
    assert workshop.step("guilty.py", *words, error_threshold=5, isolate_failed_items=True, **options)().reused


def test_limits_given_to_resume_stay_with_the_run(workshop, capsys):
    """Also where every mini-batch was decided: the run is gone on with; and isolating comes before judging anew."""
    words, options = ("--how", "raise", "--guilty", "f099.txt"), {"run_max_try": 1, "process_count_per_node": 1}
    with pytest.raises(LimitExceededError) as caught:
        workshop.step("guilty.py", *words, error_threshold=0, **options)()
    run = caught.value.run_directory
    assert ledger(run, "SELECT COUNT(*) FROM mini_batches WHERE state='planned'") == [(0,)]
    before = ledger(run, "SELECT * FROM attempts")
    result = workshop.step("guilty.py", *words, error_threshold=10, **options)()  # the flow, with another limit
    assert (result.run_directory, result.items_failed) == (run, 10)
    assert main(["resume", run, "--error-threshold", "10"]) == 0
    assert main(["resume", run]) == 0  # and not: 10 failed items, 0 allowed
    assert ledger(run, "SELECT * FROM attempts") == before
    assert main(["resume", run, "--isolate-failed-items", "--error-threshold", "1"]) == 0
    assert "99 of 100 items succeeded, 1 failed" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_guilty_rows_of_a_table(workshop, kind):
    """Named by their place; texts with line ends in them do not confuse the count."""
    frame = pd.DataFrame({"number": range(900), "text": ['a\nb,"c"', "", "plain"] * 300})
    path = str(workshop.folder / f"t.{kind}")
    if kind == "parquet":
        frame.to_parquet(path)
        dataset = TabularDataset.from_parquet_files([path])
    elif kind == "csv":
        frame.to_csv(path, index=False)
        dataset = TabularDataset.from_delimited_files([path])
    else:
        frame.to_json(path, orient="records", lines=True)
        dataset = TabularDataset.from_json_lines_files([path])
    step = workshop.step(
        "guilty_rows.py",
        inputs=dataset,
        mini_batch_size="2KB",
        isolate_failed_items=True,
        run_max_try=1,
        append_row_file_name="rows.csv",
        append_row_format="csv",
    )
    result = step()
    assert result.mini_batches_total > 3
    assert (result.items_failed, result.rows) == (3, 897)
    assert pd.read_csv(result.output_file)["number"].tolist() == [n for n in range(900) if n not in (7, 444, 899)]
    told = failed_items(result)
    assert len(told) == 3
    if kind != "parquet":
        assert [entry["first_record"] for entry in told] == [8, 445, 900]
    assert main(["verify", result.run_directory]) == 0


def test_a_broken_record_stands_alone_too(workshop, caplog):
    """The other records of its mini-batch are read without it; at once, since no other try could help."""
    path = workshop.folder / "t.csv"
    path.write_text("a,b\n" + "1,2\n" * 50 + "1,2,3\n" + "1,2\n" * 50)
    step = workshop.step(
        "echo.py", inputs=TabularDataset.from_delimited_files([str(path)]), isolate_failed_items=True, run_max_try=3
    )
    result = step()
    assert (result.items_failed, result.rows) == (1, 100)
    (told,) = failed_items(result)
    assert "record 51 has 3 fields" in told["error"]
    assert "mini-batch 16 failed at attempt 1 on node-0 (raised), its items are run separately" in caplog.text


def test_interrupted_while_isolating_it_goes_on(driver, workshop, monkeypatch):
    """What is known of the pieces is in the ledger; in full every write boundary is tried."""
    config = {"isolate_failed_items": True, "run_max_try": 1, "mini_batch_size": 50}
    monkeypatch.setenv("DRIVER_POISON", "f031.txt,f077.txt")
    _, said = driver.run(seconds=0, **config)
    clean = driver.result.read_bytes()
    assert said["result"]["items_failed"] == 2
    for boundary in range(5, said["boundaries"], 1 if IN_FULL else 8):
        driver.output = workshop.folder / f"isolated{boundary}"
        driver.run(boundary, seconds=0, **config)
        _, again = driver.run(seconds=0, **config)
        assert driver.result.read_bytes() == clean
        assert again["result"]["items_failed"] == 2
        assert main(["verify", str(driver.runs[0])]) == 0
