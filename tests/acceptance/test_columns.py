"""A step reads only the columns that its dataset keeps: from Python, on the command line, and when rows are bisected."""

import re

import pandas as pd

from prefect_parallel_run.cli.app import main

from .test_readme import ROOT, run


def block_below(heading):
    """The first Python code of a section of the guide."""
    section = (ROOT / "docs" / "guides" / "inputs.md").read_text().partition(f"\n## {heading}\n")[2]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def test_the_example_of_the_guide(tmp_path):
    """With the script at the top of the page; the result has no other column."""
    page = (ROOT / "docs" / "guides" / "inputs.md").read_text()
    (tmp_path / "area.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    (tmp_path / "flow.py").write_text(block_below("Columns"))
    (tmp_path / "plots").mkdir()
    frame = pd.DataFrame({"owner": ["ann", "bob"], "length": [2, 3], "note": ["", "x"], "width": [4, 5]})
    frame.to_parquet(tmp_path / "plots" / "1.parquet")
    ended = run("flow.py", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / "areas.csv").read_text() == "length,width,area\n2,4,8\n3,5,15\n"


def test_the_command_line_selects_columns(tmp_path, capsys):
    """A failed row is isolated and replayed with the same columns."""
    (tmp_path / "t.csv").write_text("secret,n,word\n" + "".join(f"s,{n},w{n}\n" for n in range(8)))
    (tmp_path / "picky.py").write_text(
        "def run(mini_batch):\n    assert 5 not in mini_batch['n'].tolist()\n"
        "    return [','.join(mini_batch.columns)] * len(mini_batch)\n"
    )
    settings = {"entry_script": tmp_path / "picky.py", "error_threshold": -1, "output_action": "append_row"}
    settings |= {"isolate_failed_items": "true", "run_max_try": 1}
    (tmp_path / "c.yml").write_text(
        "parallel_run_config:\n" + "".join(f"  {key}: {value}\n" for key, value in settings.items())
    )
    selection = ["--format", "delimited", "--drop-column", "secret"]
    command = ["run", tmp_path / "c.yml", "--input", tmp_path / "t.csv", *selection, "--output", tmp_path / "out"]
    assert main([*map(str, command)]) == 0
    assert (tmp_path / "out" / "parallel_run_step.txt").read_text().splitlines() == ["n,word"] * 7
    (directory,) = (tmp_path / "out" / "_parallel_run").glob("*-*")
    capsys.readouterr()
    assert main(["replay", str(directory), "--mini-batch", "0"]) != 0
    assert "AssertionError" in "".join(capsys.readouterr())
