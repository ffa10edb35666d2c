"""Tables from Arrow: the child reads the types and values that pandas.read_parquet gives for the whole file."""

import datetime as dt
import json
import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run import InputError, TabularDataset
from prefect_parallel_run.child import row_groups
from prefect_parallel_run.child.reading import BadRecord, Reader

from ..datasets.test_formats import WRITERS

NULLABLE = {
    "Int64": [2**53 + 1, -1],
    "Int8": [1, 2],
    "UInt64": [2**63 + 1, 0],
    "boolean": [True, False],
    "Float64": [0.5, 1.0],
    "string": ["a", ""],
    "int64[pyarrow]": [2**53 + 1, 3],
}


def frames(path, size, warn=lambda text: None, read=TabularDataset.from_parquet_files):
    """Every mini-batch as the child reads it."""
    reader = Reader()
    return [reader.read(json.loads(cut.work)) for cut in read([str(path)]).cuts(size, warn=warn)]


@given(
    st.sampled_from(sorted(NULLABLE)),
    st.lists(st.sampled_from([0, 1, None]), min_size=1, max_size=6),
    st.sampled_from([1, 40, 1 << 20]),
)
def test_nullable_pandas_types_reach_every_mini_batch(tmp_path_factory, dtype, places, size):
    """A user who wrote Int64 to keep every digit of an id must not receive floats."""
    path = tmp_path_factory.mktemp("in") / "t.parquet"
    values = [pd.NA if place is None else NULLABLE[dtype][place] for place in places]
    pd.DataFrame({"v": pd.array(values, dtype=dtype)}).to_parquet(path, row_group_size=2)
    parts = frames(path, size)
    whole = pd.read_parquet(path)
    assert {str(part["v"].dtype) for part in parts} == {str(whole["v"].dtype)}
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)


def test_feather_keeps_nullable_pandas_types(tmp_path):
    """The pandas metadata is the same in Arrow files."""
    frame = pd.DataFrame({"v": pd.array([2**53 + 1, None], dtype="Int64")})
    frame.to_feather(tmp_path / "t.arrow")
    (part,) = frames(tmp_path / "t.arrow", 1 << 20, read=TabularDataset.from_arrow_files)
    pd.testing.assert_frame_equal(part, frame)


def test_a_saved_index_stays_a_column(tmp_path):
    """Honoring the types in the pandas metadata must not move columns into the index."""
    frame = pd.DataFrame({"v": pd.array([1, None], dtype="Int64")}, index=pd.Index([5, 6], name="i"))
    frame.to_parquet(tmp_path / "t.parquet")
    (part,) = frames(tmp_path / "t.parquet", 1 << 20)
    assert part["i"].tolist() == [5, 6]
    assert part.index.tolist() == [0, 1]


@pytest.mark.parametrize("noted", ["no JSON", "[]", '{"columns": [{"name": "v", "numpy_type": "list<item: int64>[pyarrow]"}]}'])
def test_unusable_pandas_metadata_is_ignored(tmp_path, noted):
    """The values are readable without it."""
    table = pa.table({"v": [1, 2]}).replace_schema_metadata({"pandas": noted})
    pq.write_table(table, tmp_path / "t.parquet")
    (part,) = frames(tmp_path / "t.parquet", 1 << 20)
    assert part["v"].dtype == np.dtype("int64")


@pytest.mark.parametrize("statistics", [True, False])
def test_planning_warns_of_integers_that_floats_round(tmp_path, statistics):
    """pandas rounds them too, but a user should know by column and file."""
    table = pa.table({"id": [2**53 + 1, None], "small": [1, None], "full": [2**60, 1], "low": [-(2**60), None]})
    pq.write_table(table, tmp_path / "t.parquet", write_statistics=statistics)
    messages = []
    frames(tmp_path / "t.parquet", 1 << 20, messages.append)
    assert len(messages) == 2
    assert messages[0].startswith(f"{tmp_path / 't.parquet'} has nulls in column 'id' and integers beyond 2**53")
    assert "'low'" in messages[1]


FAR, NEAR = dt.datetime.fromisoformat("9999-12-31"), dt.datetime.fromisoformat("2024-01-31T01:02:03.000004")


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("rows", [[NEAR, FAR], [FAR, None], [NEAR, None]])
@pytest.mark.parametrize("nesting", ["plain", "list", "struct"])
def test_int96_dates_never_become_other_dates(tmp_path, rows, size, nesting):
    """Spark writes 9999-12-31 for "for ever"; nanoseconds turn it into 1816."""
    micros = pa.timestamp("us")
    kind = {"plain": micros, "list": pa.list_(micros), "struct": pa.struct([("a", micros)])}[nesting]
    wrap = {"plain": lambda value: value, "list": lambda value: [value], "struct": lambda value: {"a": value}}[nesting]
    table = pa.table({"n": range(len(rows)), "t": pa.array(map(wrap, rows), kind)})
    pq.write_table(table, tmp_path / "t.parquet", use_deprecated_int96_timestamps=True, row_group_size=1)
    parts = frames(tmp_path / "t.parquet", size)
    expected = table if FAR in rows else pq.read_table(tmp_path / "t.parquet")
    whole = expected.to_pandas()
    if nesting == "struct":  # pandas has integers there
        whole["t"] = expected.column("t").to_pylist()
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)
    assert {part["t"].dtype for part in parts} == {whole["t"].dtype}


@pytest.mark.parametrize("day", [-719163, 2932897])
def test_a_date_that_python_lacks_is_named_with_its_column(tmp_path, day):
    """PostgreSQL has dates before year 1 and after year 9999."""
    table = pa.table({"n": [1, 2], "day": pa.array([day, 0], pa.int32()).cast(pa.date32())})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(
        BadRecord, match=r"t\.parquet, column 'day': .* out of range; expected .* in the years 1 to 9999, .*; store"
    ):
        frames(tmp_path / "t.parquet", 1 << 20)


def test_int96_values_that_fit_no_unit_are_refused(tmp_path):
    """The error names the columns."""
    table = pa.table({"far": pa.array([FAR], pa.timestamp("us")), "fine": pa.array([1], pa.timestamp("ns"))})
    pq.write_table(table, tmp_path / "t.parquet", use_deprecated_int96_timestamps=True)
    with pytest.raises(InputError, match=r"column 'far' has INT96 timestamps .* column 'fine' has fractions"):
        frames(tmp_path / "t.parquet", 1)


@pytest.mark.parametrize("kind", ["parquet", "arrow", "orc"])
def test_a_file_is_opened_once_for_all_its_mini_batches(tmp_path, monkeypatch, kind):
    """The footer of a wide table takes longer to read than a few of its columns."""
    WRITERS[kind](pa.table({"n": range(100)}), str(tmp_path / "t"), 10)
    dataset = TabularDataset(paths=[str(tmp_path / "t")], format=kind)
    works = [json.loads(cut.work) for cut in dataset.cuts(1)]
    opened = []
    monkeypatch.setattr(
        row_groups, "pa", SimpleNamespace(**{**vars(pa), "OSFile": lambda path: opened.append(path) or pa.OSFile(path)})
    )
    reader = Reader()
    assert [n for work in works for n in reader.read(work)["n"]] == list(range(100))
    assert len(opened) == 1


@pytest.mark.parametrize("kind", ["parquet", "arrow", "arrow stream"])  # Arrow holds all of a small ORC file in memory
def test_another_attempt_opens_the_file_again(tmp_path, kind):
    """A store may have closed the connection, or a stream may be in the middle of a batch."""
    WRITERS[kind](pa.table({"n": range(4)}), str(tmp_path / "t"), 1)
    works = [json.loads(cut.work) for cut in TabularDataset(paths=[str(tmp_path / "t")], format=kind.split()[0]).cuts(1)]
    reader = Reader()
    assert reader.read(works[0])["n"].tolist() == [0]
    reader._table_reader._source.close()
    with pytest.raises((OSError, ValueError)):
        reader.read(works[2])
    assert [reader.read(work)["n"].tolist() for work in works[2:]] == [[2], [3]]


def test_a_table_whose_name_is_not_utf8_is_read(tmp_path):
    """File systems store bytes."""
    path = os.fsencode(tmp_path) + b"/\xff.parquet"
    with open(path, "wb") as file:
        pq.write_table(pa.table({"n": [1]}), file)
    assert [frame["n"].tolist() for frame in frames(tmp_path, 1)] == [[1]]


def test_a_parquet_file_without_columns_is_read(tmp_path):
    """There is nothing to request of its next row group."""
    path = tmp_path / "t.parquet"
    pd.DataFrame(index=range(4)).to_parquet(path, row_group_size=2)
    reader = row_groups.ParquetReader()
    work = {"kind": "parquet", "path": str(path), "version": 1, "row_groups": [0], "start": 0, "stop": 0, "rows": 0}
    assert reader.read(work).shape == (0, 0)
