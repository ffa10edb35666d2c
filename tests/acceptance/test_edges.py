"""Nothing to do, one item, few items, large items, empty ones among others: it just works, or says what is wrong."""

import json
from pathlib import Path

import pandas as pd
import pytest

from prefect_parallel_run import FileDataset, InputError, TabularDataset
from prefect_parallel_run.storage.listing import Listing

pytestmark = pytest.mark.usefixtures("shared_cluster")


def lines(result):
    return Path(result.output_file).read_text().split()


def make_csv(path, rows):
    pd.DataFrame({"a": range(rows), "b": [f"t{row}" for row in range(rows)]}).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("kind", ["files", "csv"])
def test_one_item(workshop, kind):
    """One mini-batch, one process that does something, however many there could be."""
    if kind == "files":
        result = workshop.step(inputs=workshop.files / "f042.txt", process_count_per_node=4)()
        assert lines(result) == ["f042.txt"]
    else:
        inputs = TabularDataset.from_delimited_files([make_csv(workshop.folder / "one.csv", 1)])
        result = workshop.step("echo.py", inputs=inputs, process_count_per_node=4)()
        assert lines(result) == ["0", "t0"]
    assert (result.mini_batches_total, result.items_total) == (1, 1)


def test_more_processes_than_items(workshop):
    """No more are started than there is work for."""
    result = workshop.step(inputs=workshop.files / "f00[0-2].txt", mini_batch_size=1, node_count=2, process_count_per_node=4)()
    assert lines(result) == ["f000.txt", "f001.txt", "f002.txt"]
    started = [line for line in workshop.log.read_text().splitlines() if line.startswith("init ")]
    assert len(started) <= 2 * 3


def test_items_larger_than_the_mini_batch_size(workshop):
    """A record, a line and a row group of one row are never cut."""
    path = workshop.folder / "long.csv"
    path.write_text("a,b\n" + "".join(f'{row},"{"x" * 5000}\n{row}"\n' for row in range(5)))
    inputs = TabularDataset.from_delimited_files([path])
    result = workshop.step("rows_of_table.py", inputs=inputs, mini_batch_size=100, error_threshold=0)()
    assert (result.mini_batches_total, result.items_succeeded) == (5, 5)
    frame = pd.DataFrame({"a": ["y" * 5000] * 4})
    frame.to_parquet(workshop.folder / "long.parquet", row_group_size=1)
    inputs = TabularDataset.from_parquet_files([workshop.folder / "long.parquet"])
    result = workshop.step("rows_of_table.py", inputs=inputs, mini_batch_size=100, output=workshop.folder / "o")()
    assert (result.mini_batches_total, result.items_succeeded) == (4, 4)


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_empty_files_among_others(workshop, kind):
    """A file of no bytes, one with a header alone, one of no rows: they count for nothing and disturb nothing."""
    folder = workshop.folder / "tables"
    folder.mkdir()
    frame = pd.DataFrame({"a": [1, 2, 3]})
    for name, rows in (("a", 0), ("b", 3), ("c", 0), ("d", 2)):
        part = frame[:rows]
        path = folder / f"{name}.{kind}"
        if kind == "csv":
            part.to_csv(path, index=False)
        elif kind == "parquet":
            part.to_parquet(path)
        else:
            part.to_json(path, orient="records", lines=True)
    (folder / f"e.{kind}").write_bytes(b"")
    make = {
        "csv": TabularDataset.from_delimited_files,
        "parquet": TabularDataset.from_parquet_files,
        "jsonl": TabularDataset.from_json_lines_files,
    }[kind]
    result = workshop.step("echo.py", inputs=make([folder]), mini_batch_size="1MB", error_threshold=0)()
    assert lines(result) == ["1", "2", "3", "1", "2"]
    assert (result.mini_batches_total, result.items_total) == (2, 5)


def test_nothing_but_empty_tables_is_an_error_that_names_them(workshop):
    """Unless that is allowed."""
    path = make_csv(workshop.folder / "none.csv", 0)
    with pytest.raises(InputError, match=r"none.csv: has no items; to accept that"):
        workshop.step("echo.py", inputs=TabularDataset.from_delimited_files([path]))()
    result = workshop.step("echo.py", inputs=TabularDataset.from_delimited_files([path], allow_empty=True))()
    assert (result.mini_batches_total, result.rows, lines(result)) == (0, 0, [])


def test_a_file_that_vanishes_between_listing_and_reading_fails_its_mini_batch(workshop, monkeypatch):
    """And no other."""
    blocks = Listing.blocks

    def lose_one(self):
        yield from blocks(self)
        (workshop.files / "f055.txt").unlink()

    monkeypatch.setattr(Listing, "blocks", lose_one)
    result = workshop.step(error_threshold=10)()
    assert (result.mini_batches_failed, result.items_failed, result.items_succeeded) == (1, 10, 90)
    failed = [json.loads(line) for line in Path(result.run_directory, "failed_items.jsonl").read_text().splitlines()]
    assert {one["outcome"] for one in failed} == {"input_changed"}
    assert "f055.txt has been removed since the run was planned" in failed[0]["error"]


def test_several_inputs_come_one_after_another(workshop):
    """In the order given; the script is told which is which, and no mini-batch spans two."""
    first = FileDataset.from_files(workshop.files / "f09*.txt").as_named_input("late")
    second = FileDataset.from_files(workshop.files / "f00*.txt").as_named_input("early")
    result = workshop.step("context_facts.py", inputs=[first, second], mini_batch_size=7, error_threshold=-1)()
    told = [json.loads(line) for line in Path(result.output_file).read_text().splitlines()]
    assert [one["dataset"] for one in told] == ["late"] * 10 + ["early"] * 10
    assert [one["index"] for one in told] == [0] * 7 + [1] * 3 + [2] * 7 + [3] * 3
