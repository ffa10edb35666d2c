"""Parquet, Arrow and ORC: every row once, in order, with the types that pandas infers for the whole file."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run import InputError, TabularDataset
from prefect_parallel_run.child.reading import Reader
from prefect_parallel_run.datasets.formats import create_planner
from prefect_parallel_run.storage.listing import list_files


def write_arrow(table, path, rows):
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table, max_chunksize=rows)


def write_stream(table, path, rows):
    with pa.ipc.new_stream(path, table.schema) as file:
        file.write_table(table, max_chunksize=rows)


def write_orc(table, path, rows):
    with pa.orc.ORCWriter(path, stripe_size=1, compression="zstd", batch_size=rows) as file:
        for start in range(0, table.num_rows, rows):
            file.write(table.slice(start, rows))


WRITERS = {
    "parquet": lambda table, path, rows: pq.write_table(table, path, row_group_size=rows),
    "parquet without statistics": lambda table, path, rows: pq.write_table(
        table, path, row_group_size=rows, write_statistics=False
    ),
    "arrow": write_arrow,
    "arrow stream": write_stream,
    "feather": lambda table, path, rows: pa.feather.write_feather(table, path, chunksize=rows, compression="zstd"),
    "orc": write_orc,
}


def dataset(kind, path):
    make = {"parquet": TabularDataset.from_parquet_files, "orc": TabularDataset.from_orc_files}
    return make.get(kind.split()[0], TabularDataset.from_arrow_files)(path).as_named_input("t")


def works(kind, path, size):
    return [json.loads(cut.work) for cut in dataset(kind, path).cuts(size)]


def frames(kind, path, size):
    reader = Reader()
    return [reader.read(work) for work in works(kind, path, size)]


@given(rows=st.integers(0, 200), group=st.integers(1, 90), size=st.integers(1, 5000), kind=st.sampled_from(sorted(WRITERS)))
def test_every_row_is_in_exactly_one_mini_batch(rows, group, size, kind, tmp_path_factory):
    """Rows keep their order, also inside a group; no frame is empty."""
    path = tmp_path_factory.mktemp("g") / "t"
    table = pa.table({"t": [f"row {number}" for number in range(rows)], "n": range(rows)})
    WRITERS[kind](table, str(path), group)
    found = frames(kind, path, size)
    assert all(len(frame) and frame.index[0] == 0 for frame in found)
    assert [n for frame in found for n in frame["n"]] == list(range(rows))
    assert [t for frame in found for t in frame["t"]] == table["t"].to_pylist()


GAPS = {
    "i8": pa.int8(),
    "i64": pa.int64(),
    "u32": pa.uint32(),
    "b": pa.bool_(),
    "f": pa.float32(),
    "s": pa.string(),
    "d": pa.date32(),
    "ts": pa.timestamp("us"),
    "l": pa.list_(pa.int64()),
}
ORC_LACKS = ["u32"]
VALUES = {"i8": 1, "i64": 2, "u32": 3, "b": True, "f": 0.5, "s": "x", "d": 0, "ts": 0, "l": [1]}


@given(
    gaps=st.dictionaries(st.sampled_from(sorted(GAPS)), st.sets(st.integers(0, 29), max_size=4)),
    group=st.integers(1, 40),
    size=st.integers(1, 1500),
    kind=st.sampled_from(sorted(WRITERS)),
)
def test_a_column_has_one_type_in_all_mini_batches(gaps, group, size, kind, tmp_path_factory):
    """It is the type that pandas infers for the whole file, wherever its nulls are."""
    path = tmp_path_factory.mktemp("g") / "t"
    names = [name for name in GAPS if kind != "orc" or name not in ORC_LACKS]
    columns = [pa.array([None if n in gaps.get(name, ()) else VALUES[name] for n in range(30)], GAPS[name]) for name in names]
    table = pa.table(columns, names=names)
    WRITERS[kind](table, str(path), group)
    whole = (pa.orc.read_table(path) if kind == "orc" else table).to_pandas()  # ORC knows no microseconds
    found = frames(kind, path, size)
    for frame in found:
        assert [str(kind) for kind in frame.dtypes] == [str(kind) for kind in whole.dtypes]
    pd.testing.assert_frame_equal(pd.concat(found, ignore_index=True), whole)
    nullable = {names[place] for work in works(kind, path, size) for place in work.get("nullable", ())}
    assert nullable == {name for name in ("i8", "i64", "u32", "b") if name in names and gaps.get(name)}


def test_columns_of_one_name_are_distinguished(tmp_path):
    """The one with a null is identified by its index, or both count as nullable."""
    table = pa.table([pa.array([1, 2, 3]), pa.array([1, None, 3])], names=["n", "n"])
    for kind in ("parquet", "arrow"):
        path = tmp_path / kind
        WRITERS[kind](table, str(path), 1)
        found = frames(kind, path, 1)
        assert {str(frame.dtypes.iloc[1]) for frame in found} == {"float64"}
        assert len({str(frame.dtypes.iloc[0]) for frame in found}) == 1


@pytest.mark.parametrize(
    ("kind", "owner", "method"),
    [("parquet", pq.ParquetFile, "read_row_groups"), ("orc", pa.orc.ORCFile, "read_stripe")],
)
def test_a_group_is_decoded_once_for_all_its_mini_batches(tmp_path, monkeypatch, kind, owner, method):
    """This makes small mini-batches of large groups cheap."""
    path = tmp_path / "t"
    WRITERS[kind](pa.table({"n": range(10_000)}), str(path), 10_000)
    planned = works(kind, path, path.stat().st_size // 10)
    decoded = []
    original = getattr(owner, method)
    monkeypatch.setattr(
        owner, method, lambda self, numbers, **options: decoded.append(numbers) or original(self, numbers, **options)
    )
    reader = Reader()
    assert sum(len(reader.read(work)) for work in planned) == 10_000
    assert len(planned) > 5
    assert len(decoded) == len({tuple(work.get("row_groups", work.get("stripes"))) for work in planned})


def test_categories_are_preserved(tmp_path):
    """An Arrow file has one dictionary, so all mini-batches have its categories; in Parquet they become plain values."""
    frame = pd.DataFrame({"c": pd.Categorical(["a", "b", None, "c"], categories=["a", "b", "c", "d"])})
    frame.to_feather(tmp_path / "f", chunksize=1)
    found = frames("feather", tmp_path / "f", 1)
    assert len(found) == 4
    assert {str(part["c"].dtype) for part in found} == {"category"}
    pd.testing.assert_frame_equal(pd.concat(found, ignore_index=True), frame)
    frame.to_parquet(tmp_path / "p", row_group_size=1)
    found = frames("parquet", tmp_path / "p", 1)
    assert len({str(part["c"].dtype) for part in found}) == 1
    assert pd.concat(found)["c"].dropna().tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "orc"])
def test_an_empty_file_is_skipped(tmp_path, kind):
    """It has no bytes (a marker such as _SUCCESS), or no rows."""
    (tmp_path / "_SUCCESS").touch()
    table = pa.table({"n": pa.array([1, 2], pa.int64())})
    WRITERS[kind](table.slice(0, 0), str(tmp_path / "1"), 10)
    WRITERS[kind](table, str(tmp_path / "2"), 10)
    assert [frame["n"].tolist() for frame in frames(kind, tmp_path, 1 << 20)] == [[1, 2]]


def test_an_arrow_stream_is_read_forward(tmp_path):
    """Going back starts from the beginning; dictionaries may change between batches, so values are plain."""
    path = tmp_path / "t"
    table = pa.table({"c": pa.array([f"v{n // 2}" for n in range(20)]).dictionary_encode(), "n": range(20)})
    batches = [batch for n in range(10) for batch in table.slice(n * 2, 2).combine_chunks().to_batches()]
    with pa.ipc.new_stream(path, table.schema) as file:
        for batch in batches:
            column = batch.column(0).cast(pa.string()).dictionary_encode()
            file.write_batch(pa.record_batch([column, batch.column(1)], schema=table.schema))
    planned = works("arrow", path, 1)
    reader = Reader()
    for order in (planned, planned[::-1], planned[::3]):
        found = [reader.read(work) for work in order]
        assert [n for frame in found for n in frame["n"]] == [work["batches"][0] * 2 + work["start"] for work in order]
        assert all(frame["c"].tolist() == [f"v{frame['n'].tolist()[0] // 2}"] for frame in found)
        assert len({str(frame["c"].dtype) for frame in found}) == 1


@pytest.mark.parametrize("kind", ["parquet", "arrow", "orc"])
def test_an_unreadable_file_is_named(tmp_path, kind):
    """Planning raises the error."""
    path = tmp_path / "t"
    WRITERS[kind](pa.table({"n": range(1000)}), str(path), 100)
    for damaged in (b"no table at all", path.read_bytes()[:-20]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"t: cannot be read as {kind}"):
            works(kind, path, 100)


@pytest.mark.parametrize("kind", ["parquet", "arrow", "orc"])
def test_a_file_deleted_after_listing_raises_oserror(tmp_path, kind):
    """The dataset converts it to an InputError that names the file."""
    (tmp_path / "t").write_text("x")
    (file,) = list_files([str(tmp_path)])
    (tmp_path / "t").unlink()
    with pytest.raises(FileNotFoundError, match="t"):
        create_planner(dataset(kind, tmp_path)).plan(file, 10)


@pytest.mark.parametrize("make", ["from_parquet_files", "from_arrow_files", "from_orc_files", "from_delimited_files"])
def test_a_deleted_file_is_named(tmp_path, make, monkeypatch):
    """It was deleted between listing and reading."""
    path = tmp_path / "t"
    path.write_text("x")
    given_ = getattr(TabularDataset, make)(path).as_named_input("t")
    listed = list(list_files([str(path)]))
    path.unlink()
    monkeypatch.setattr("prefect_parallel_run.storage.listing.list_files", lambda paths, of_table: (file for file in listed))
    with pytest.raises(InputError, match=r"/t: cannot be read as"):
        list(given_.cuts(10))
