"""One Parquet or ORC file from mini-batches whose values look different to Arrow."""

import pickle
import re
from decimal import Decimal

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from prefect_parallel_run import FileDataset, RowsDifferError
from prefect_parallel_run.cli import main
from prefect_parallel_run.runs.ledger import Ledger

pytestmark = pytest.mark.usefixtures("shared_cluster")

READERS = {"parquet": pq.read_table, "orc": lambda path: orc.ORCFile(path).read()}


def step(workshop, results, gate, suffix):
    """A step whose run() returns *results*; mini-batch *gate* never ends."""
    folder = workshop.folder / "results"
    folder.mkdir()
    for number, result in enumerate(results):
        (folder / f"{number:03d}.pickle").write_bytes(pickle.dumps(result))
    return workshop.step(
        *("unpickles.py", "--log", workshop.log, "--gate", gate, "--open", workshop.folder / "gate"),
        inputs=FileDataset.from_files(folder),
        append_row_file_name=f"rows.{suffix}",
        mini_batch_size=1,
    )


@pytest.mark.parametrize("suffix", READERS)
def test_columns_that_look_different_in_every_mini_batch(workshop, suffix):
    """Decimals, empty lists, null fields, a gap, units of time, categories: every value comes out as it went in."""
    rows = [
        {
            "price": Decimal(f"{number}.{'5' * number}"),
            "tags": [] if number == 0 else [f"tag {number}"],
            "who": {"name": f"name {row}", "age": None if number == 1 else row},
            "count": None if (number, row) == (2, 7) else row,
            "at": pd.Timestamp(2020, 1, 1 + number).as_unit("ns" if number == 3 else "us"),
            "kind": f"{number}-{row}",
        }
        for number in range(4)
        for row in range(100)
    ]
    frames = [pd.DataFrame(rows[start : start + 100]).astype({"kind": "category"}) for start in range(0, 400, 100)]
    result = step(workshop, frames, -1, suffix)()
    assert READERS[suffix](result.output_file).to_pylist() == rows


@pytest.mark.parametrize("suffix", READERS)
def test_the_first_mini_batch_that_does_not_fit_ends_the_run(workshop, suffix):
    """While others still run; resume ends the same way without running any, the same step begins a new run.

    Which mini-batch differs from mini-batch 1 depends on the order in which they finish.
    """
    differ = r"column 'x' is \w+ in mini-batch \d+ and \w+ in mini-batch \d+; no"
    again = step(workshop, [[{"x": 1}], [{"x": "word"}], *([{"x": 2}] for _ in range(28))], 29, suffix)
    with pytest.raises(RowsDifferError, match=differ) as caught:
        again()
    assert f"mini-batch 1 reads {workshop.folder}/results/001.pickle" in str(caught.value)
    assert not (workshop.output / f"rows.{suffix}").exists()
    (run,) = (workshop.output / "_parallel_run").iterdir()
    with Ledger(run / "ledger.sqlite") as ledger:
        facts, tally = ledger.metadata(), ledger.tally()
    assert (facts["status"], facts["ended_by"]) == ("failed", "RowsDifferError")
    assert tally.succeeded < 30
    calls = workshop.invocations()
    assert main(["resume", str(run)]) != 0
    with Ledger(run / "ledger.sqlite") as ledger:
        resumed = ledger.metadata()
    assert (resumed["status"], resumed["ended_by"]) == ("failed", "RowsDifferError")
    assert re.search(differ, resumed["reason"])
    assert f"mini-batch 1 reads {workshop.folder}/results/001.pickle" in resumed["reason"]
    assert workshop.invocations() == calls
    with pytest.raises(RowsDifferError):
        again()
    assert len(list((workshop.output / "_parallel_run").iterdir())) == 2
