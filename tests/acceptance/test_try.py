"""The command try: its output, the state that it leaves, and that a run publishes the rows that a trial shows."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from prefect_parallel_run import ParallelRunStep, TabularDataset
from prefect_parallel_run.child.rows import ROW_FORMATS

from ..terminal import Terminal
from .conftest import ours, wait_until

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "prefect_parallel_run.cli", "try"]


class Trial:
    """Runs the program in the workshop's folder; Prefect's API is not served there."""

    def __init__(self, workshop):
        self.workshop, self.temporary = workshop, workshop.folder / "temporary"
        self.temporary.mkdir()
        places = {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
        self.environment = {**os.environ, **places, "TERM": "xterm"}

    def command(self, script, *options, **fields):
        path = self.workshop.folder / "step.yml"
        self.workshop.config(script, **fields).save_to_yaml(path)
        return [*PROGRAM, str(path), *map(str, options)]

    def run(self, script, *options, code=0, inputs=None, **fields):
        """Return what was printed to stdout and to stderr; the output is never created."""
        inputs = ("--input", self.workshop.files, "--output", self.workshop.output) if inputs is None else inputs
        command = self.command(script, *inputs, *options, **fields)
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == code, done.stderr
        self.check_nothing_is_left()
        return done.stdout, done.stderr

    def check_nothing_is_left(self):
        assert not list(self.temporary.iterdir())
        assert not self.workshop.output.exists()
        wait_until(lambda: not ours("prefect_parallel_run/child", "node/reaper.py"))


@pytest.fixture
def trial(workshop):
    return Trial(workshop)


def block(language, number=0):
    page = (ROOT / "docs" / "guides" / "trying.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[number]


def without_figures(text):
    """Text without what differs from machine to machine."""
    return re.sub(r"\d+\.\d+( (ms|s|MB))?|with \d processes|\S+/lengths.py|^ *~+\^~+\n", "#", text, flags=re.MULTILINE)


def test_the_guide_word_for_word(tmp_path, trial):
    """The command, its output, and the same in Python."""
    (tmp_path / "lengths.py").write_text(block("python"))
    (tmp_path / "lengths.yml").write_text(block("yaml"))
    (tmp_path / "flow.py").write_text(block("python", 1))
    (tmp_path / "reviews").mkdir()
    for number in range(40):
        (tmp_path / "reviews" / f"{number:02d}.txt").write_text("" if number == 6 else "four word text here")
    program, command, *arguments = block("bash").replace("'", "").split()
    assert (program, command) == ("prefect-parallel-run", "try")
    options = {"cwd": tmp_path, "env": trial.environment, "capture_output": True, "text": True, "timeout": 300}
    ended = subprocess.run([*PROGRAM, *arguments], check=False, **options)
    assert ended.returncode == 1, ended.stderr
    assert without_figures(ended.stdout) == without_figures(block("text"))
    ended = subprocess.run([sys.executable, "flow.py"], check=False, **options)
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(r"15.txt 4.0\n40 items: 0.\d{3} process hours\n1 ZeroDivisionError division by zero\n", ended.stdout)
    assert not (tmp_path / "out").exists()
    trial.check_nothing_is_left()


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_a_run_publishes_the_rows_of_a_trial(workshop, shared_cluster, row_format):
    """Byte by byte for text; a trial of all mini-batches shows the whole result."""
    frame = pd.DataFrame({"n": range(300), "text": ["a b", 'quo"te', "é"] * 100, "half": [None, 0.5, 1.5] * 100})
    frame.to_parquet(workshop.folder / "t.parquet")
    inputs = TabularDataset.from_parquet_files(workshop.folder / "t.parquet")
    options = {"mini_batch_size": "1KB", "append_row_format": row_format, "append_row_file_name": "result"}
    config = workshop.config("rows_of_table.py", **options)
    step = ParallelRunStep("test", config, inputs=inputs, output=workshop.output)
    trial = step.try_out(1000)
    assert not workshop.output.exists()
    result = step()
    assert not result.reused
    assert (
        (result.rows, result.mini_batches_total)
        == (len(trial.rows), len(trial.mini_batches))
        == (300, trial.figures.mini_batches)
    )
    if row_format in ("parquet", "orc"):
        read = pd.read_parquet if row_format == "parquet" else pd.read_orc
        pd.testing.assert_frame_equal(pd.DataFrame(trial.rows), read(result.output_file))
    else:
        lines = [trial.header] if trial.header else []
        assert "".join(f"{line}\n" for line in [*lines, *trial.rows]) == Path(result.output_file).read_text()


def test_a_table_as_json(trial, workshop):
    """Stdout has one document; the rest is on stderr."""
    pd.DataFrame({"n": range(500)}).to_csv(workshop.folder / "t.csv", index=False)
    inputs = ("--input", workshop.folder / "t.csv", "--format", "delimited")
    fields = {"append_row_format": "parquet", "mini_batch_size": "1KB"}
    out, _ = trial.run("rows_of_table.py", "--json", "--mini-batch", 1, inputs=inputs, **fields)
    document = json.loads(out)
    (mini_batch,) = document["mini_batches"]
    assert (mini_batch["mini_batch"], mini_batch["outcome"], mini_batch["rows"]) == (1, "succeeded", len(document["rows"]))
    first = document["rows"][0]["n"]
    assert document["rows"] == [{"n": number, "columns": 1} for number in range(first, first + mini_batch["rows"])]
    assert document["figures"]["items"] == 500
    assert document["figures"]["seconds_per_item"][1] > 0


def test_json_has_null_for_numbers_that_it_lacks(trial, workshop):
    """So that every parser reads it."""
    script = workshop.folder / "infinite.py"
    script.write_text("def run(paths): return [{'n': float('inf'), 'list': [float('nan'), 1.0]} for _ in paths]\n")
    fields = {"source_directory": str(workshop.folder), "append_row_format": "parquet"}
    out, _ = trial.run(script.name, "--json", "--mini-batch", 0, **fields)
    document = json.loads(out, parse_constant=pytest.fail)
    assert document["rows"][0] == {"n": None, "list": [None, 1.0]}


def test_a_hang_and_a_crash_are_named(trial, workshop):
    """By timeout and signal; the other mini-batches run; the exit code is that of a failed run."""
    arguments = ("--", "--log", workshop.log, "--poison", 1, "--how")
    out, err = trial.run("poison.py", *arguments, "hang_in_c", code=1, run_invocation_timeout=5)
    assert "InvocationTimeout: run() exceeded run_invocation_timeout = 5 s" in out
    assert "in hang_in_c" in out
    assert err.splitlines() == ["before 0", "before 1", "before 2"]
    out, _ = trial.run("poison.py", *arguments, "segfault", code=1)
    assert "mini-batch 1 failed (died)\nSIGSEGV: its process was killed\n" in out
    assert "… 10 more rows" in out
    out, _ = trial.run("poison.py", "--mini-batch", 1, *arguments, "segfault", code=1)
    assert "memory of a process  unknown\n" in out


@pytest.mark.parametrize(("value", "hidden"), [("{'a': 'x\\ny'}", "row"), ("'x\\ny'", "line")], ids=["quoted", "bare"])
def test_the_number_of_hidden_rows_is_true(trial, workshop, value, hidden):
    """Rows are counted, or lines if the ends of rows are unknown."""
    script = workshop.folder / "notes.py"
    script.write_text(f"def run(paths): return [{value} for _ in paths]\n")
    out, _ = trial.run(script.name, "--mini-batches", 2, source_directory=str(workshop.folder))
    assert f"… {10 if hidden == 'row' else 30} more {hidden}s\n" in out


def test_an_exception_in_init_ends_the_trial(trial):
    """As it would end a run."""
    out, err = trial.run("init_raises.py", code=1)
    assert out == ""
    assert "its init() failed: RuntimeError: no model at /models/none\nTraceback" in err


def test_a_function_step_on_the_command_line(trial):
    """Named by the configuration."""
    out, err = trial.run("from_functions.py", "--mini-batches", 1, entry_function="tells")
    assert "\nbegin 0 from_functions False\n" in out
    assert err.splitlines() == ["begin end"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mini-batches", 0], "mini_batches: expected a positive integer, got 0"),
        (["--mini-batch", 10], "mini_batch: expected less than 10, the number of planned mini-batches, got 10"),
        (
            ["--mini-batch", 1, "--mini-batches", 3],
            "set either mini_batch, or mini_batches and sample, got mini_batch=1, mini_batches=3, sample=False",
        ),
    ],
    ids=["none", "missing", "both"],
)
def test_a_wrong_selection_is_a_usage_error(trial, options, message):
    """In one line, with the value."""
    _, err = trial.run("echo.py", *options, code=2)
    assert err == f"{message}\n"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_cancelled_trial_leaves_nothing_behind(trial, workshop, stop):
    """Neither process nor file, while run() hangs; a terminal shows the phase until then."""
    terminal = Terminal(120)
    inputs = ("--input", workshop.files, "--output", workshop.output)
    command = trial.command("slow.py", *inputs, "--", "--log", workshop.log, "--sleep", 1000, run_invocation_timeout=2000)
    running = terminal.start(command, env=trial.environment, start_new_session=True)
    try:
        wait_until(lambda: workshop.log.exists() and workshop.log.read_text())
        terminal.wait_for(lambda lines: any(line.startswith("step  mini-batch 0  ") for line in lines))
        os.killpg(running.pid, stop)
        assert running.wait(300) == 130
    finally:
        running.kill()
        lines = terminal.close()
    assert lines == ["cancelled"]
    trial.check_nothing_is_left()
