"""An incomplete plan can be read while it grows, and survives the death of the process."""

import pyarrow as pa

from prefect_parallel_run.planning.inputs import normalize_inputs
from prefect_parallel_run.planning.plan import Group, Plan, Spool, planned_mini_batches, spooled
from prefect_parallel_run.planning.planner import Planning, PlanWriter

from ...plans import write_plan


def group(start, stop):
    count = stop - start
    return Group(["x"] * count, [1] * count, [2] * count, [f'{{"n":{number}}}' for number in range(start, stop)])


def test_a_spool_can_be_read_while_it_is_written(tmp_path):
    """Reads cross groups, in any order, and include the newest."""
    spool = Spool(tmp_path / "spool")
    spool.append(group(0, 3))
    assert spool.works(1, 3) == ['{"n":1}', '{"n":2}']
    spool.append(group(3, 4))
    spool.append(group(4, 9))
    assert [one.number for one in spool.mini_batches(2, 8)] == [2, 3, 4, 5, 6, 7]
    assert spool.items(0, 9) == [1] * 9
    assert spool.typical_bytes() == len('{"n":1}')
    spool.close()
    assert [one.number for one in spooled(tmp_path / "spool")] == list(range(9))


def test_a_truncated_spool_yields_its_complete_groups(tmp_path):
    """The process may die at any byte."""
    spool = Spool(tmp_path / "spool")
    for start in (0, 3, 6):
        spool.append(group(start, start + 3))
    spool.close()
    data = (tmp_path / "spool").read_bytes()
    counts = []
    for length in range(0, len(data), 7):
        (tmp_path / "cut").write_bytes(data[:length])
        found = [one.number for one in spooled(tmp_path / "cut")]
        assert found == list(range(len(found)))
        assert len(found) % 3 == 0
        counts.append(len(found))
    assert counts == sorted(counts)
    assert set(counts) >= {0, 3, 6}


def test_reported_groups_equal_the_plan(files, tmp_path):
    """Flushing in between does not change that."""
    spool = Spool(tmp_path / "spool")
    writer = PlanWriter(tmp_path / "plan.parquet", spool.append)
    planning = Planning(normalize_inputs([files]), 3, None, tmp_path)
    summary = planning.write(writer, writer.flush)
    assert list(spool.mini_batches()) == list(Plan(tmp_path / "plan.parquet").mini_batches())
    assert summary == write_plan(normalize_inputs([files]), 3, tmp_path / "again")
    assert list(planned_mini_batches(tmp_path / "plan.parquet", tmp_path / "none")) == list(spool.mini_batches())
    spool.close()


def test_a_spool_of_an_earlier_version_is_empty(tmp_path):
    """An interrupted run of an earlier version is planned again."""
    schema = pa.schema([("work", pa.string())])
    with pa.OSFile(str(tmp_path / "spool"), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        stream.write_batch(pa.RecordBatch.from_pylist([{"work": "{}"}], schema=schema))
    assert list(spooled(tmp_path / "spool")) == []
