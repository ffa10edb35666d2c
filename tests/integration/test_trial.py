"""Trials of steps, in a real process, without a server and without a cluster."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import sys
import tempfile
from contextlib import ExitStack, redirect_stderr, suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest

from prefect_parallel_run import EntryScriptError, FileDataset, ParallelRunConfig, ParallelRunStep, TabularDataset
from prefect_parallel_run.errors import RowsDifferError
from prefect_parallel_run.monitoring.terminal import RunView, use_view

from ..processes import command_line
from .conftest import seconds_since

DIES = {
    "hang": ("timed_out", "InvocationTimeout", "poison.py"),
    "segfault": ("died", "SIGSEGV", ""),
    "hog": ("out_of_memory", "OutOfMemory", ""),
    "raise": ("raised", "ZeroDivisionError", "1 / 0"),
    "none": ("wrong_type", "WrongType", ""),
}


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path, monkeypatch):
    """Every trial ends without files and processes, and without Prefect's API, which is not served here."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    yield
    assert not list(folder.iterdir())
    assert not (tmp_path / "out").exists()
    assert not [child for child in psutil.Process().children(recursive=True) if "prefect_parallel_run" in command_line(child)]


@pytest.fixture
def step(tmp_path, files, scripts):
    """Makes steps whose output does not exist."""

    def make(script, *arguments, inputs=files, **fields):
        given = {"source_directory": str(scripts), "mini_batch_size": 10, "error_threshold": 0, "output_action": "append_row"}
        config = ParallelRunConfig(entry_script=script, **{**given, **fields})
        return ParallelRunStep("trial", config, inputs=inputs, output=tmp_path / "out", arguments=list(arguments))

    return make


def numbers(trial):
    return [receipt.mini_batch for receipt in trial.mini_batches]


def test_the_first_mini_batches_of_files(step, files):
    """In the order of the plan; the figures are of the whole input."""
    trial = step("echo.py", process_count_per_node=3).try_out(2)
    assert trial.rows == [str(files / f"f{number:03d}.txt") for number in range(20)]
    assert (numbers(trial), trial.failures, trial.warnings) == ([0, 1], (), ())
    figures = trial.figures
    assert (figures.mini_batches, figures.items, figures.processes) == (10, 100, 3)
    assert figures.memory > 1 << 20
    assert figures.start_seconds > 0
    assert figures.wall_seconds > figures.start_seconds


def test_a_sample_and_one_mini_batch(step):
    """Numbered as in a run."""
    made = step("context_facts.py")
    assert numbers(made.try_out(2, sample=True)) == [2, 7]
    assert numbers(made.try_out(mini_batch=9)) == [9]
    assert numbers(made.try_out(1000)) == list(range(10))


@pytest.mark.parametrize("how", DIES)
def test_a_failure_costs_no_other_mini_batch(step, tmp_path, how, capfd, running_for):
    """Its cause is that of a run; it is tried once; the prints of all processes are shown."""
    arguments = ("--log", str(tmp_path / "log"), "--how", how, "--poison", "1")
    hangs = DIES[how][0] == "timed_out"
    running_for(seconds_since(lambda: hangs and "run 1 1" in (tmp_path / "log").read_text().splitlines(), 1))
    trial = step("poison.py", *arguments, run_invocation_timeout=5, process_memory_limit=300_000_000).try_out()
    outcome, error_type, traceback = DIES[how]
    assert [receipt.outcome for receipt in trial.mini_batches] == ["succeeded", outcome, "succeeded"]
    (failure,) = trial.failures
    assert (failure.error_type, failure.items, failure.failed) == (error_type, 10, 10)
    assert traceback in failure.traceback
    assert len(trial.rows) == 20
    assert (tmp_path / "log").read_text().splitlines() == [f"run {number} 1" for number in range(3)]
    assert capfd.readouterr().err.splitlines() == ["before 0", "before 1", "before 2"]


def test_prints_and_log_lines_reach_stderr(step, capfd):
    """Also those of a process that was killed, and nothing else."""
    step("talks.py", "--crash").try_out(2)
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("mini-batch")] == ["mini-batch 0", "mini-batch 1"]
    assert sum("in init()" in line for line in lines) == 2


LONG = """
import os, sys
from prefect_parallel_run import EntryScript

def run(paths, context):
    for number in range(context.minibatch_index * 90, context.minibatch_index * 90 + 90):
        for stream in (sys.stdout, sys.stderr):
            print(number, stream.name, "x" * 200_000, file=stream, flush=True)
        EntryScript().logger.warning("%d <log>", number)
    if context.minibatch_index == 1:
        os.abort()
    return paths
"""


def test_long_prints_are_shown_once_and_in_order(step, tmp_path, capfd):
    """Over 16 MB, from which on the log files of a run are shortened; also those of a process that crashes."""
    (tmp_path / "long.py").write_text(LONG)
    trial = step("long.py", source_directory=str(tmp_path)).try_out()
    assert [receipt.outcome for receipt in trial.mini_batches] == ["succeeded", "died", "succeeded"]
    lines = capfd.readouterr().err.splitlines()
    for stream in ("<stdout>", "<stderr>"):
        assert [line for line in lines if stream in line] == [f"{number} {stream} {'x' * 200_000}" for number in range(270)]
    logged = [line.partition(" WARNING ")[2] for line in lines if "<log>" in line]
    assert logged == [f"{number} <log>" for number in range(270)]
    assert len(lines) == 3 * 270


def test_a_broken_stderr_fails_no_mini_batch(step, tmp_path):
    """The script has nothing to do with it: its prints neither raise nor wait for a reader."""
    (tmp_path / "long.py").write_text(LONG)
    reader, writer = os.pipe()
    os.close(reader)
    with suppress(BrokenPipeError), open(writer, "w", buffering=1) as stderr, redirect_stderr(stderr):  # raised when closed
        trial = step("long.py", source_directory=str(tmp_path)).try_out(1)
    assert not trial.failures


def test_a_process_with_many_open_files_tries_a_step(step, capfd):
    """The flow process may have more than 1,024, such as connections."""
    with ExitStack() as stack:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while stack.enter_context(open(os.devnull)).fileno() < 1_100:
            pass
        step("talks.py").try_out(1)
    assert "mini-batch 0" in capfd.readouterr().err


def test_a_character_that_is_printed_in_two_parts(step, tmp_path, capfd):
    """As a buffer may cut it."""
    script = tmp_path / "halves.py"
    script.write_text(
        "import sys, time\ndef run(paths):\n    for part in (b'\\xc3', b'\\xa9\\n'):\n"
        "        sys.stdout.buffer.write(part)\n        sys.stdout.buffer.flush()\n        time.sleep(0.5)\n    return paths\n"
    )
    assert not step(script.name, source_directory=str(tmp_path)).try_out(1).failures
    assert capfd.readouterr().err == "é\n"


@pytest.fixture
def phases():
    """The phases that the status line shows, in order."""
    shown = []

    class Recorder(RunView):
        def doing(self, phase):
            shown.append(phase)

    with use_view(Recorder("trial")):
        yield shown


def test_a_slow_init_is_not_shown_as_a_mini_batch(step, tmp_path, phases):
    """The status line names what the user waits for."""
    script = tmp_path / "slow_init.py"
    script.write_text("import time\ndef init(): time.sleep(1)\ndef run(paths): return paths\n")
    step(script.name, source_directory=str(tmp_path)).try_out(1)
    assert phases[:2] == ["planning", "preparing the environment"]
    assert phases.index("import and init()") < len(phases) - 1 - phases[::-1].index("mini-batch 0")


def test_a_failed_start_is_not_shown_as_a_mini_batch(step, phases):
    """No mini-batch was run."""
    with pytest.raises(EntryScriptError):
        step("init_raises.py").try_out()
    assert phases == ["planning", "preparing the environment", "import and init()"]


def test_a_script_that_cannot_start_raises_as_in_a_run(step):
    """With its traceback."""
    with pytest.raises(EntryScriptError, match=r"its init\(\) failed: RuntimeError: no model at /models/none"):
        step("init_raises.py").try_out()


def test_the_message_of_argparse_is_in_the_error(step, tmp_path, capfd):
    """As in a run: otherwise there would only be a status; without secrets."""
    script = tmp_path / "script.py"
    parser = "argparse.ArgumentParser(prog='p-' + os.environ['TOKEN'])\nparser.add_argument('--model', required=True)\n"
    script.write_text(f"import argparse, os\nparser = {parser}parser.parse_args()\ndef run(batch): return batch\n")
    made = step(script.name, source_directory=str(tmp_path), environment_variables={"TOKEN": "canary-7"})
    with pytest.raises(EntryScriptError) as caught:
        made.try_out(1)
    message = "error: the following arguments are required: --model"
    assert caught.value.reason == f"it cannot be imported: SystemExit: 2: p-***: {message}"
    assert capfd.readouterr().err.endswith(f"p-canary-7: {message}\n")


def test_an_error_has_no_line_that_the_script_printed(step, tmp_path):
    """Unless the script exits with a status, which says nothing."""
    script = tmp_path / "script.py"
    script.write_text("print('loading')\nraise SystemExit('no model')\n")
    with pytest.raises(EntryScriptError) as caught:
        step(script.name, source_directory=str(tmp_path)).try_out(1)
    assert caught.value.reason == "it cannot be imported: SystemExit: no model"


def test_a_problem_in_shutdown_is_a_warning(step, monkeypatch):
    """As in a run."""
    monkeypatch.setenv("TOKEN_FOR_TEST", "secret")
    trial = step("tells.py", environment_variables={"TOKEN_FOR_TEST": "hidden-value"}).try_out(1)
    assert any("TroubleError" in warning for warning in trial.warnings)
    assert "hidden-value" not in str(trial)


def test_missing_rows_are_a_warning(step):
    """They would count as failed items."""
    trial = step("short.py").try_out(2)
    message = "run() returned fewer rows than items; 2 items without a row would count as failed (error_threshold = 0)"
    assert trial.warnings == (message,)


def test_a_script_that_writes_gets_a_temporary_folder(step):
    """In place of {output}; the real one is not created."""
    trial = step("writes.py", "--out", "{output}", output_action="summary_only").try_out(1)
    assert (trial.failures, trial.rows, trial.mini_batches[0].rows) == ((), [], 10)


def test_an_argument_with_the_path_of_the_output_is_refused(step, tmp_path):
    """Else the script could write there."""
    with pytest.raises(ValueError, match=r"contains the output, where a trial must not write; write \{output\}"):
        step("writes.py", "--out", f"{tmp_path}/out/models").try_out()


def test_a_relative_path_does_not_lead_to_the_output(step, tmp_path, monkeypatch):
    """It starts in the working directory of the process, which has no such folder."""
    monkeypatch.chdir(tmp_path)
    (failure,) = step("writes.py", "--out", "out").try_out(1).failures
    assert (failure.error_type, "'out/0.model'" in failure.error) == ("FileNotFoundError", True)


def test_an_invalid_selection_is_reported_before_planning(step, tmp_path):
    """Planning may take long, and would find that the input is missing."""
    with pytest.raises(ValueError, match="mini_batches: expected a positive integer, got 0"):
        step("echo.py", inputs=tmp_path / "missing").try_out(0)
    with pytest.raises(ValueError, match="expected less than 10, the number of planned mini-batches, got 10"):
        step("echo.py").try_out(mini_batch=10)


def test_partition_keys_and_input_columns(step, files):
    """Each mini-batch has its keys; rows begin with the columns of their items."""
    inputs = FileDataset.from_files(files, partition_format="{kind}0{tens}{ones}.txt")
    trial = step("keys.py", inputs=inputs, partition_keys=["tens"], mini_batch_size=None).try_out(sample=True)
    assert [receipt.items for receipt in trial.mini_batches] == [10, 10, 10]
    assert '"tens": "1"' in trial.rows[0]
    columns = {"append_row_input_columns": ["path"], "append_row_format": "csv"}
    trial = step("echo.py", **columns).try_out(1)
    assert trial.rows[0] == f"{files}/f000.txt,{files}/f000.txt"


@pytest.mark.parametrize(
    ("row_format", "problem"), [("csv", "has column 'c1'"), ("parquet", "lacks the column 'c0'")], ids=["csv", "parquet"]
)
def test_rows_that_do_not_fit_together_raise_as_in_a_run(step, tmp_path, files, row_format, problem):
    """Named by mini-batch and its files, without the temporary folder."""
    script = tmp_path / "differs.py"
    script.write_text("def run(paths, context): return [{f'c{context.minibatch_index}': 1} for _ in paths]\n")
    with pytest.raises(RowsDifferError, match=f"^output parallel_run_step.txt: mini-batch 1 {problem}") as error:
        step(script.name, source_directory=str(tmp_path), append_row_format=row_format).try_out()
    assert f"; mini-batch 1 reads {files}/f010.txt, " in str(error.value)


@pytest.mark.parametrize("row_format", ["text", "csv", "jsonl", "parquet"])
def test_a_row_with_newlines_is_one_row(step, tmp_path, row_format):
    """As many rows as the mini-batches have."""
    script = tmp_path / "notes.py"
    script.write_text("def run(paths): return [{'n': n, 'no\\nte': 'a\\n\"b\"\\n,c'} for n, _ in enumerate(paths)]\n")
    trial = step(script.name, source_directory=str(tmp_path), append_row_format=row_format).try_out(2)
    assert len(trial.rows) == sum(receipt.rows for receipt in trial.mini_batches) == 20
    assert trial.rows[3] == trial.rows[13]
    assert trial.header == ('n,"no\nte"' if row_format == "csv" else "")


def test_strings_with_newlines_are_shown_as_lines(step, tmp_path):
    """The end of such a row is unknown; the mini-batches have the number of rows."""
    script = tmp_path / "notes.py"
    script.write_text("def run(paths): return ['say \"a\\nb' for _ in paths]\n")
    trial = step(script.name, source_directory=str(tmp_path)).try_out(1)
    assert (trial.rows, trial.mini_batches[0].rows) == (['say "a', "b"] * 10, 10)


def test_tables_keep_their_types(step, tmp_path):
    """Records of Parquet have the values of the result file."""
    pd.DataFrame({"n": range(1000), "day": pd.Timestamp("2026-01-31")}).to_parquet(tmp_path / "t.parquet")
    inputs = TabularDataset.from_parquet_files(tmp_path / "t.parquet")
    trial = step("rows_of_table.py", inputs=inputs, mini_batch_size="1KB", append_row_format="parquet").try_out(1)
    assert trial.rows[7] == {"n": 7, "day": pd.Timestamp("2026-01-31"), "columns": 2}
    assert trial.figures.items == 1000


def test_coroutines(step):
    """The functions of the script may be coroutines."""
    assert len(step("async_steps.py").try_out(1).rows) == 10


def test_another_interpreter(step, tmp_path):
    """The step's environment runs the script."""
    (tmp_path / "python").symlink_to(os.path.realpath(sys.executable))
    script = tmp_path / "tells.py"
    script.write_text("import sys\ndef run(paths): return [sys.executable for _ in paths]\n")
    fields = {"source_directory": str(tmp_path), "environment": str(tmp_path / "python")}
    assert set(step(script.name, **fields).try_out(1).rows) == {str(tmp_path / "python")}


def test_a_step_from_a_function(scripts, files, monkeypatch):
    """With its init and shutdown functions."""
    spec = importlib.util.spec_from_file_location("steps_of_a_trial", scripts / "from_functions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    trial = module.tells.try_out(1, inputs=files)
    assert trial.rows == ["begin 0 from_functions False"] * 10


def test_an_empty_input_has_no_estimate(step, tmp_path):
    """If it is allowed."""
    (tmp_path / "empty").mkdir()
    trial = step("echo.py", inputs=FileDataset.from_files(tmp_path / "empty", allow_empty=True)).try_out()
    assert (trial.rows, trial.mini_batches, trial.figures.process_hours) == ([], (), None)


def test_the_process_has_its_share_of_the_cores(step, monkeypatch):
    """As many threads as a process of a run, so that the times are those of a run."""
    monkeypatch.setattr("prefect_parallel_run.execution.trial.usable_cores", lambda nodes: 12 // nodes)
    trial = step("tells_threads.py", node_count=2, process_count_per_node=3).try_out(1)
    assert json.loads(trial.rows[0])["OMP_NUM_THREADS"] == "2"


def test_a_trial_is_no_part_of_a_run(step, tmp_path):
    """allow_reuse finds nothing of it: run directories are absent everywhere."""
    step("echo.py").try_out(1)
    assert not list(Path(tmp_path).rglob("run.json"))
