"""What a run leaves behind, on real data, in every format."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest

from prefect_parallel_run import FileDataset, OutputError, TabularDataset
from prefect_parallel_run.child.rows import ROW_FORMATS
from prefect_parallel_run.testing import run_script

pytestmark = pytest.mark.usefixtures("shared_cluster")

HOSTILE = ["plain", "with space", 'a "quote"', "new\nline", "comma, here", "tab\there", "ünïcode ☃ 漢字", "", " lead", "'"]


@pytest.fixture
def table(tmp_path):
    """A table whose texts are hostile to every delimiter."""
    frame = pd.DataFrame({"number": range(3_000), "text": (HOSTILE * 300), "share": [i / 8 for i in range(3_000)]})
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=500)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True, force_ascii=False)
    return frame


def dataset(folder, kind):
    return {
        "parquet": lambda: TabularDataset.from_parquet_files([str(folder / "t.parquet")]),
        "csv": lambda: TabularDataset.from_delimited_files([str(folder / "t.csv")]),
        "jsonl": lambda: TabularDataset.from_json_lines_files([str(folder / "t.jsonl")]),
    }[kind]()


def test_run_script_returns_what_a_step_publishes(workshop):
    """Users test their entry script with it."""
    result = workshop.step("short.py", mini_batch_size=10)()
    paths = sorted(map(str, workshop.files.iterdir()))
    alone = run_script(workshop.scripts / "short.py", paths, mini_batch_size=10)
    assert b"".join(alone.encoded) == Path(result.output_file).read_bytes()
    assert (alone.items, alone.succeeded, alone.failed) == (100, result.items_succeeded, result.items_failed)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_every_input_in_every_format(workshop, table, kind, row_format):
    """Every row once, in order, cut into many mini-batches; the receipt describes the file."""
    fields = {"append_row_file_name": f"rows.{row_format}", "append_row_format": row_format}
    result = workshop.step("echo.py", inputs=dataset(workshop.folder, kind), mini_batch_size="8KB", **fields)()
    assert result.mini_batches_total > 5
    assert (result.rows, result.items_failed) == (3_000, 0)
    path = Path(result.output_file)
    expected = table.replace({"text": {"": None}}) if kind == "csv" else table
    if row_format == "text":
        assert path.read_text() == expected.to_csv(sep=" ", header=False, index=False)
    elif row_format == "csv":
        assert path.read_text() == expected.to_csv(index=False)
    elif row_format == "jsonl":
        rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
        assert [row["number"] for row in rows] == list(range(3_000))
        assert [row["text"] or "" for row in rows] == table["text"].tolist()
    else:
        read = {"parquet": pd.read_parquet, "orc": pd.read_orc}[row_format]
        assert read(path)["text"].fillna("").tolist() == table["text"].tolist()
    receipt = json.loads(Path(result.receipt).read_text())
    assert receipt["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert receipt["bytes"] == path.stat().st_size
    assert receipt["rows"] == 3_000
    assert {"config_sha256", "script_sha256", "plan_sha256"} <= receipt.keys()


def test_summary_only_counts_rows_and_publishes_none(workshop):
    """The script stores what it wants under the output."""
    result = workshop.step(output_action="summary_only")()
    assert (result.output_file, result.rows) == (None, 100)
    assert sorted(path.name for path in workshop.output.iterdir()) == ["_parallel_run"]
    assert json.loads(Path(result.receipt).read_text())["output_file"] is None
    assert not list(Path(result.run_directory, "parts").iterdir())


def test_summary_only_needs_no_output(workshop):
    """The run directory then lies in Prefect's home."""
    from prefect_parallel_run import ParallelRunStep

    config = workshop.config(output_action="summary_only")
    result = ParallelRunStep("bare", config, inputs=workshop.files, arguments=["--log", str(workshop.log)])()
    assert result.output is None
    assert Path(result.run_directory, "receipt.json").exists()


def test_columns_that_differ_are_an_error_and_nothing_is_published(workshop):
    """It names column and mini-batch; the file that was there stays."""
    workshop.output.mkdir()
    (workshop.output / "rows.csv").write_text("before")
    tables = []
    for number, columns in enumerate(["ab", "ac"]):
        tables.append(str(workshop.folder / f"t{number}.parquet"))
        pd.DataFrame([[1, 2]], columns=list(columns)).to_parquet(tables[-1])
    step = workshop.step(
        "echo.py",
        inputs=TabularDataset.from_parquet_files(tables),
        append_row_file_name="rows.csv",
        append_row_format="csv",
        mini_batch_size=None,
    )
    with pytest.raises(OutputError, match=r"mini-batch 1 has column 'c' where earlier mini-batches have 'b'"):
        step()
    assert (workshop.output / "rows.csv").read_text() == "before"


def test_rubbish_on_stdout_does_not_disturb_the_rows(workshop):
    """Binary bytes, a line of 10 MB; all of it is in the logs."""
    result = workshop.step("rubbish.py")()
    assert Path(result.output_file).read_text().split() == ["10"] * 10 or result.rows > 0
    assert sum(path.stat().st_size for path in Path(result.run_directory, "logs").iterdir()) > 10_000_000


def test_an_empty_input_that_is_allowed_gives_an_empty_result(workshop):
    """allow_empty=True says that nothing to do is right."""
    (workshop.folder / "none").mkdir()
    result = workshop.step(inputs=FileDataset.from_files(workshop.folder / "none", allow_empty=True))()
    assert (result.mini_batches_total, result.rows) == (0, 0)
    assert Path(result.output_file).read_text() == ""


def test_a_file_that_changes_after_planning_fails_its_mini_batch(workshop):
    """Never silently: here the script itself changes a file that comes later."""
    step = workshop.step("meddles.py", process_count_per_node=1, mini_batch_size=10, run_max_try=1)
    result = step()
    assert (result.mini_batches_failed, result.items_failed) == (1, 10)
    told = [json.loads(line) for line in Path(result.run_directory, "failed_items.jsonl").read_text().splitlines()]
    assert {entry["mini_batch"] for entry in told} == {9}
    assert "f095.txt" in told[0]["error"]
