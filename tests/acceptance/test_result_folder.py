"""Steps whose result is a folder of parts, from the configuration to the next step."""

import json
import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from prefect_parallel_run import LimitExceededError, OutputError, TabularDataset
from prefect_parallel_run.cli import main

pytestmark = pytest.mark.usefixtures("shared_cluster")

READERS = {
    "csv": pd.read_csv,
    "jsonl": lambda path: pd.read_json(path, lines=True),
    "parquet": lambda path: pq.read_table(path).to_pandas(),
    "orc": lambda path: orc.ORCFile(path).read().to_pandas(),
    "txt": lambda path: pd.read_csv(path, sep=" ", names=["n", "t"]),
}
ROWS = 600


@pytest.fixture
def table(tmp_path):
    """A table that makes some ten mini-batches of 1 KB."""
    frame = pd.DataFrame({"n": range(ROWS), "t": [f"text-{number}" for number in range(ROWS)]})
    frame.to_csv(tmp_path / "table.csv", index=False)
    return TabularDataset.from_delimited_files(tmp_path / "table.csv")


def step(workshop, inputs, suffix, **fields):
    given = {"append_row_max_file_size": "3KB", "mini_batch_size": "1KB", **fields}
    given["append_row_format"] = {"csv": "csv", "txt": "text"}.get(suffix)
    return workshop.step("echo.py", inputs=inputs, append_row_file_name=f"rows.{suffix}", **given)


GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "outputs.md"


def test_the_example_of_the_guide_runs(workshop, monkeypatch):
    """As it is printed."""
    script, _, _, step, read = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(workshop.folder)
    workshop.files.rename("data")
    Path("sizes.py").write_text(script)
    names = {}
    exec(f"{step}\nstep()\n{read}", names)
    assert names["sizes"]["name"].tolist() == [f"f{number:03d}.txt" for number in range(100)]
    assert [path.name for path in Path("out/sizes.parquet").iterdir()] == ["part-00000.parquet"]


def parts_of(folder):
    return sorted(Path(folder).iterdir())


@pytest.mark.parametrize("suffix", READERS)
def test_parts_have_all_rows_in_order(workshop, table, suffix, capsys):
    """The next step reads them as it reads one file; the receipt, verify and reuse go by them."""
    result = step(workshop, table, suffix)()
    assert result.output_file == str(workshop.output / f"rows.{suffix}")
    paths = parts_of(result.output_file)
    assert [path.name for path in paths] == [f"part-{number:05d}.{suffix}" for number in range(len(paths))]
    assert len(paths) > 2
    frame = pd.concat([READERS[suffix](path) for path in paths], ignore_index=True)
    assert frame["n"].tolist() == list(range(ROWS))
    receipt = json.loads(Path(result.receipt).read_text())
    assert [(part["name"], part["bytes"]) for part in receipt["parts"]] == [(path.name, path.stat().st_size) for path in paths]
    assert sum(part["rows"] for part in receipt["parts"]) == receipt["rows"] == ROWS
    assert receipt["bytes"] == sum(path.stat().st_size for path in paths)
    assert main(["verify", result.run_directory]) == 0
    assert main(["show", result.run_directory]) == 0
    again = step(workshop, table, suffix)()
    assert (again.reused, again.output_file) == (True, result.output_file)
    second = workshop.step("echo.py", name="second", inputs=result, output=workshop.folder / "second", mini_batch_size="1KB")()
    assert second.items_succeeded == (len(paths) if suffix == "txt" else ROWS)
    paths[1].write_bytes(b"altered")
    capsys.readouterr()
    assert main(["verify", result.run_directory]) == 1
    assert f"{paths[1]} was changed after it was published" in capsys.readouterr().out
    assert not step(workshop, table, suffix)().reused


def test_the_same_rows_as_one_file(workshop, table):
    """A size limit that nothing reaches makes one part; each way replaces the result of the other."""
    limited = step(workshop, table, "csv", append_row_max_file_size="1GB")()
    (part,) = parts_of(limited.output_file)
    data = part.read_bytes()
    single = step(workshop, table, "csv", append_row_max_file_size=None)()
    assert Path(single.output_file).read_bytes() == data
    assert step(workshop, table, "csv")().output_file == single.output_file
    assert len(parts_of(single.output_file)) > 2
    assert not [path for path in workshop.output.iterdir() if path.name.startswith(".")]


def test_an_exceeded_limit_leaves_the_earlier_folder(workshop, table):
    """Nothing is published."""
    before = step(workshop, table, "csv")()
    names = [path.name for path in parts_of(before.output_file)]
    broken = workshop.step(
        *("guilty_rows.py", "--guilty", "3"),
        inputs=table,
        mini_batch_size="1KB",
        append_row_file_name="rows.csv",
        append_row_format="csv",
        append_row_max_file_size="1KB",
        error_threshold=0,
        run_max_try=1,
    )
    with pytest.raises(LimitExceededError):
        broken()
    assert [path.name for path in parts_of(before.output_file)] == names


def test_a_folder_with_other_files_is_refused_before_anything_runs(workshop):
    """The result would replace it."""
    (workshop.output / "rows.csv").mkdir(parents=True)
    (workshop.output / "rows.csv" / "notes.txt").write_text("mine")
    step = workshop.step(append_row_file_name="rows.csv", append_row_max_file_size="1KB")
    with pytest.raises(OutputError, match=r"notes.txt, which is not part of a result"):
        step()
    assert workshop.invocations() == []
    assert not list(workshop.output.glob("_parallel_run/*"))


def test_resume_publishes_again_what_was_deleted(workshop, table):
    """From the committed rows: nothing runs."""
    result = step(workshop, table, "parquet")()
    paths = parts_of(result.output_file)
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    Path(result.output_file).rmdir()
    assert main(["resume", result.run_directory]) == 0
    assert [path.read_bytes() for path in parts_of(result.output_file)] == before
    assert main(["verify", result.run_directory]) == 0
