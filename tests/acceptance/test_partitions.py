"""partition_keys in a step: one mini-batch per combination, known to the script, and resumable."""

import json
from pathlib import Path

import pandas as pd
import pytest

from prefect_parallel_run import FileDataset, InputError, ParallelRunStep, TabularDataset

pytestmark = pytest.mark.usefixtures("shared_cluster")


def rows(result):
    return [json.loads(line) for line in Path(result.output_file).read_text().splitlines()]


def step(workshop, inputs, keys, **fields):
    config = workshop.config("keys.py", partition_keys=keys, **{"mini_batch_size": None, **fields})
    return ParallelRunStep("keys", config, inputs=inputs, output=workshop.output)


def test_files_by_their_paths(workshop):
    """The context has the values, in the order of partition_keys; the receipt counts every file."""
    for user in ("ann", "bob"):
        for day in ("2024/01/31", "2024/02/29"):
            folder = workshop.folder / "in" / user / day
            folder.mkdir(parents=True)
            for number in range(7):
                (folder / f"{number}.wav").write_text("x")
    inputs = FileDataset.from_files(workshop.folder / "in", partition_format="{user}/{day:yyyy/MM/dd}/*.wav")
    result = step(workshop, inputs, ["day", "user"])()
    assert (result.mini_batches_total, result.items_succeeded) == (4, 28)
    values = [row["values"] for row in rows(result)]
    assert values[::7] == [
        {"day": "2024-01-31", "user": "ann"},
        {"day": "2024-02-29", "user": "ann"},
        {"day": "2024-01-31", "user": "bob"},
        {"day": "2024-02-29", "user": "bob"},
    ]
    assert [list(value) for value in values] == [["day", "user"]] * 28
    by_user = step(workshop, inputs, ["user"])()
    assert by_user.mini_batches_total == 2


def test_a_table_by_its_columns_and_the_same_again(workshop):
    """The rows are partitioned once; the second call finds the earlier result, a changed table does not."""
    path = workshop.folder / "t.csv"
    frame = pd.DataFrame({"store": [3, 1, 3, 2] * 50, "x": range(200)})
    frame.to_csv(path, index=False)
    inputs = TabularDataset.from_delimited_files([path])
    first = step(workshop, inputs, ["store"])()
    assert (first.mini_batches_total, first.rows) == (3, 200)
    found = rows(first)
    assert {row["values"]["store"] for row in found} == {1, 2, 3}
    assert all(row["columns"] == ["x", "store"] for row in found)
    for store in (1, 2, 3):
        expected = frame[frame["store"] == store]["x"].tolist()
        assert [row["x"] for row in found if row["values"]["store"] == store] == expected
    again = step(workshop, inputs, ["store"])()
    assert again.reused
    frame.assign(store=1).to_csv(path, index=False)
    changed = step(workshop, inputs, ["store"])()
    assert (changed.reused, changed.mini_batches_total) == (False, 1)


def test_keys_that_an_input_does_not_have(workshop):
    """Both sets are named, before anything runs."""
    (workshop.folder / "t.csv").write_text("a,b\n1,2\n")
    inputs = TabularDataset.from_delimited_files([workshop.folder / "t.csv"])
    with pytest.raises(InputError, match=r"c: is not a column to partition by; the columns are \['a', 'b'\]"):
        step(workshop, inputs, ["c"])()
    with pytest.raises(ValueError, match="set either partition_keys or mini_batch_size, not both"):
        workshop.config("keys.py", partition_keys=["a"], mini_batch_size=3)


def test_guilty_rows_of_a_partition_stand_alone(workshop):
    """isolate_failed_items over several files of one partition."""
    frame = pd.DataFrame({"k": [n % 2 for n in range(900)], "number": range(900)})
    for part in range(3):
        frame[part * 300 : part * 300 + 300].to_csv(workshop.folder / f"t{part}.csv", index=False)
    inputs = TabularDataset.from_delimited_files([workshop.folder / "t*.csv"])
    config = workshop.config(
        "guilty_rows.py", partition_keys=["k"], mini_batch_size=None, isolate_failed_items=True, run_max_try=1
    )
    result = ParallelRunStep("guilty", config, inputs=inputs, output=workshop.output)()
    assert (result.mini_batches_total, result.items_failed, result.rows) == (2, 3, 897)
    told = [json.loads(line) for line in Path(result.run_directory, "failed_items.jsonl").read_text().splitlines()]
    assert [(entry["partition_key_value"]["k"], entry["items"][0]) for entry in told] == [(0, 222), (1, 3), (1, 449)]
