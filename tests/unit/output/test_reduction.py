"""The final reduction, and the state of a run that it fails."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefect_parallel_run import TabularDataset
from prefect_parallel_run.child.rows import encode
from prefect_parallel_run.child.runner import Part
from prefect_parallel_run.errors import OutputError, RowsDifferError
from prefect_parallel_run.execution.runner import _record_end
from prefect_parallel_run.models import FailureLimits, Receipt
from prefect_parallel_run.monitoring.status import read_status, status_lines
from prefect_parallel_run.output.columns import ColumnChecker
from prefect_parallel_run.output.reduction import Reduction, ResultFile, reduce
from prefect_parallel_run.planning.inputs import normalize_inputs
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

from ...plans import write_plan
from .test_publication import TEXT


def finished_run(folder, frames, row_format, is_early=False):
    """Create a run with one file and one returned frame per mini-batch; *is_early*: in the format of an earlier version."""
    for number in range(len(frames)):
        (folder / f"{number}.csv").write_text("v\n1\n")
    directory = RunDirectory(folder / "run")
    directory.make()
    datasets = normalize_inputs([TabularDataset.from_delimited_files(folder / "*.csv")])
    write_plan(datasets, 1 << 20, directory.plan)
    part = Part(str(directory.parts / "p.part"))
    with Ledger.create(directory.ledger, [1] * len(frames)) as ledger:
        for number, frame in enumerate(frames):
            rows, header, body = encode(pd.DataFrame(frame), row_format, with_header=False)
            if is_early:
                header, body = b"", without_facts(header + body)
            location = (part.append(header, body), len(header), len(header) + len(body), 0)
            ledger.commit([(Receipt(number, 1, "succeeded", 1, 1, 0, rows, "p.part", *location, 1.0, 0.1), "succeeded")])
    return directory


def without_facts(stream):
    """Return the rows of a mini-batch as earlier versions wrote them."""
    table = pa.ipc.open_stream(stream).read_all().replace_schema_metadata(None)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def reduction(directory, row_format):
    target = directory.path.parent / f"result.{row_format}"
    return Reduction(
        directory=directory,
        limits=FailureLimits(),
        result=ResultFile(path=target, location=str(target), format=row_format),
        identity=dict.fromkeys(("config_sha256", "script_sha256", "plan_sha256")),
        output=str(target.parent),
        check_cancelled=lambda: None,
    )


@pytest.fixture(autouse=True)
def no_checksums(monkeypatch):
    """The receipts of these tests have no checksums."""
    monkeypatch.setattr("prefect_parallel_run.output.parts._Check.update", lambda *_: None)


@pytest.mark.parametrize(
    ("row_format", "frames"), [("parquet", [{"v": [1.5]}, {"v": ["x"]}]), ("csv", [{"v": [1]}, {"w": [1]}])]
)
def test_error_about_differing_columns_names_the_files(tmp_path, row_format, frames):
    """And the remedy; the run counts as failed, because resuming it would fail again."""
    directory = finished_run(tmp_path, [frames[0], *frames], row_format)
    with pytest.raises(RowsDifferError) as caught:
        reduce(reduction(directory, row_format))
    error = caught.value
    assert (error.mini_batch, error.files) == (2, (f"{tmp_path}/2.csv",))
    assert (error.other, error.other_files) == (0, (f"{tmp_path}/0.csv",))
    assert f"mini-batch 2 reads {tmp_path}/2.csv" in str(error)
    assert "in run() or with the dataset's column_types" in str(error)
    with Ledger(directory.ledger) as ledger:
        assert _record_end(ledger, error) == ("failed", str(error))
        lines = status_lines(read_status(directory, 2.0), 2.0)
        assert "failed (output" in lines[0]
        assert not any("next:" in line for line in lines), "resuming would publish the same rows"
        assert _record_end(ledger, OutputError("/out", "is full"))[0] == "interrupted"


def test_rows_of_an_earlier_version_are_unified(tmp_path):
    """It wrote no column facts: they are computed from the values."""
    directory = finished_run(tmp_path, [{"v": [1]}, {"v": [0.5]}, {"v": [None]}], "parquet", is_early=True)
    reduce(reduction(directory, "parquet"))
    assert pq.read_table(tmp_path / "result.parquet").column("v").to_pylist() == [1.0, 0.5, None]
    (tmp_path / "large").mkdir()
    directory = finished_run(tmp_path / "large", [{"v": [2**53 + 1]}, {"v": [0.5]}], "parquet", is_early=True)
    with pytest.raises(RowsDifferError, match="column 'v' is double in mini-batch 1 and int64 in mini-batch 0"):
        reduce(reduction(directory, "parquet"))


@pytest.mark.parametrize("is_early", [False, True])
def test_run_with_differing_columns_is_not_resumed(tmp_path, is_early):
    """The committed rows are checked first."""
    directory = finished_run(tmp_path, [{"v": [1]}, {"v": ["x"]}], "parquet", is_early)
    with Ledger(directory.ledger) as ledger, pytest.raises(RowsDifferError) as caught:
        ColumnChecker(directory, Plan(directory.plan), ledger, "/out/r.parquet")
    assert str(caught.value).startswith(f"output /out/r.parquet: column 'v' is {TEXT} in mini-batch 1 and int64 in")
    assert caught.value.files == (f"{tmp_path}/1.csv",)


def test_receipts_are_checked_as_they_arrive(tmp_path):
    """Unreadable rows are left to the reduction."""
    directory = finished_run(tmp_path, [{"v": [1]}, {"v": [2]}, {"v": ["x"]}], "parquet")
    with Ledger(directory.ledger) as ledger:
        ledger_rows = list(ledger.places())
    receipts = [Receipt(number, 1, "succeeded", 1, 1, 0, 1, *location[:-1], 1.0, 0.1) for number, *location in ledger_rows]
    with Ledger.create(tmp_path / "empty.sqlite", []) as ledger:
        watch = ColumnChecker(directory, Plan(directory.plan), ledger, "/out/r.parquet")
    watch.check(receipts[:2])
    watch.check([receipts[2]._replace(part="late.part"), receipts[2]._replace(offset=1 << 40), receipts[2]._replace(part="")])
    with pytest.raises(RowsDifferError, match="in mini-batch 2 and int64 in mini-batch 0"):
        watch.check(receipts[2:])
