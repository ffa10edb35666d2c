"""Rows with the values of their items: in a flow, on the command line, when items are isolated, and when a run is resumed."""

import json
import re

import pytest

from prefect_parallel_run.cli.app import main

from ..conftest import SCRIPTS
from .test_readme import ROOT, run

GUIDE = (ROOT / "docs" / "guides" / "rows-with-inputs.md").read_text()


def test_the_example_of_the_guide(tmp_path):
    """As it is printed, with the result that is printed."""
    script, flow = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    result = re.search(r"```text\n(.*?)```", GUIDE, re.DOTALL)[1]
    (tmp_path / "classify.py").write_text(script)
    (tmp_path / "flow.py").write_text(flow)
    (tmp_path / "data").mkdir()
    for name, size in (("a.bin", 3), ("b.bin", 30)):
        (tmp_path / "data" / name).write_bytes(b"x" * size)
    ended = run("flow.py", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / "classes.csv").read_text() == result


@pytest.fixture
def configured(tmp_path):
    """A table of 8 rows and a script that returns no row for 5; returns the beginning of a command."""
    (tmp_path / "t.csv").write_text("n,word\n" + "".join(f"{n},w {n}\n" for n in range(8)))
    (tmp_path / "skips.py").write_text("def run(mini_batch):\n    return [n * n for n in mini_batch['n'] if n != 5]\n")
    fields = {"entry_script": tmp_path / "skips.py", "error_threshold": -1, "output_action": "append_row", "run_max_try": 1}
    fields["append_row_input_columns"] = '["row", "word"]'
    (tmp_path / "c.yml").write_text("parallel_run_config:\n" + "".join(f"  {key}: {value}\n" for key, value in fields.items()))
    inputs = ["--input", tmp_path / "t.csv", "--format", "delimited", "--output", tmp_path / "out"]
    return [*map(str, ["run", tmp_path / "c.yml", *inputs])]


def test_an_item_without_a_row_is_isolated(configured, tmp_path):
    """The rows of all other items are published, each with its own values."""
    assert main([*configured, "--set", "isolate_failed_items=true"]) == 0
    rows = (tmp_path / "out" / "parallel_run_step.txt").read_text().splitlines()
    assert rows == [f'{n} "w {n}" {n * n}' for n in range(8) if n != 5]
    (failed,) = (tmp_path / "out" / "_parallel_run").glob("*-*/failed_items.jsonl")
    (line,) = map(json.loads, failed.read_text().splitlines())
    assert (line["items"], line["error_type"]) == ([5, 6], "UnmatchedRows")
    assert line["error"].startswith("run() returned 0 rows for 1 item; append_row_input_columns needs exactly one row")


def test_replay_shows_what_the_run_saw(configured, tmp_path, capsys):
    """The rows with their input columns, or the error that failed the mini-batch; a module imported late makes no step."""
    (tmp_path / "late.py").write_text((SCRIPTS / "from_functions.py").read_text())
    script = (
        "def run(mini_batch):\n    import late\n    return [type(late.later).__name__ for n in mini_batch['n'] if n != 5]\n"
    )
    (tmp_path / "skips.py").write_text(script)
    assert main([*configured, "--set", 'mini_batch_size="8"']) == 0
    (run_directory,) = (tmp_path / "out" / "_parallel_run").glob("*-*")
    capsys.readouterr()
    assert main(["replay", str(run_directory), "--mini-batch", "0"]) == 0
    rows = [line.split()[1:] for line in capsys.readouterr().out.splitlines()[-2:]]
    assert rows == [[str(n), "w", str(n), "StepFunctions"] for n in range(2)]
    assert main(["replay", str(run_directory), "--mini-batch", "2"]) == 1
    assert "UnmatchedRows: run() returned" in capsys.readouterr().err


def test_an_unknown_column_ends_the_run_before_it_starts(configured, capsys):
    """With exit code 2 or more, and the columns that there are."""
    assert main([*configured, "--set", 'append_row_input_columns=["wrd"]']) != 0
    message = " ".join(capsys.readouterr().err.split())
    assert (
        "lacks the column 'wrd', which append_row_input_columns names; did you mean word?; its columns are 'n', 'word'"
        in message
    )
