"""Rows of a Parquet file that the script returns as they came are the same rows in a Parquet result."""

import datetime as dt
import io
import json
import math
import pickle

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_parallel_run import TabularDataset
from prefect_parallel_run.child.reading import Reader

from .test_column_types import KINDS, is_read_from_parquet, value
from .test_publication import Parts


def echoed(folder, size):
    """The result of a step over t.parquet whose run() returns its mini-batch, cut to this size."""
    reader, parts = Reader(), Parts(folder, "parquet")
    for number, cut in enumerate(TabularDataset.from_parquet_files(folder / "t.parquet").cuts(size, warn=lambda _: None)):
        parts.add(number, reader.read(json.loads(cut.work)))
    parts.publish(folder / "r.parquet")
    return pq.read_table(folder / "r.parquet")


def plain(value, is_rounded=False):
    """A value as pandas sees it: NaN is a null, a date64 a date; a column of integers with a gap has floats."""
    if isinstance(value, dict):
        return {key: without_zone(plain(inner)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_zone(plain(inner)) for inner in value]
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, (pd.Timestamp, dt.datetime)):
        return pd.Timestamp(value)
    if isinstance(value, int) and is_rounded:
        return float(value)
    return value


def reads_durations_in_maps():
    """Return whether this version of pyarrow reads a duration in a map as such, not as an integer."""
    file = io.BytesIO()
    table = pa.table({"x": pa.array([[("k", dt.timedelta(0))]], pa.map_(pa.string(), pa.duration("ms")))})
    pq.write_table(table, file)
    return pq.read_table(file).equals(table)


READS_DURATIONS_IN_MAPS = reads_durations_in_maps()


def is_readable(kind):
    """pyarrow does not read dictionaries, or write views, inside other types when there are several row groups."""
    unreadable = ("dictionary", "_view", *([] if READS_DURATIONS_IN_MAPS else ["duration"]))
    return is_read_from_parquet(kind) and not (pa.types.is_nested(kind) and any(name in str(kind) for name in unreadable))


def without_zone(value):
    """Inside lists pandas has times in UTC, without saying so."""
    return value.tz_convert(None) if isinstance(value, pd.Timestamp) and value.tz is not None else value


@st.composite
def tables(draw):
    kind = draw(KINDS.filter(is_readable))
    values = [value(draw, kind) for _ in range(draw(st.integers(1, 8)))]
    return pa.table({"x": pa.array(values, kind), "n": range(len(values))})


@settings(max_examples=400, deadline=None)
@given(tables(), st.integers(1, 8), st.sampled_from([1, 40, 200, 1 << 20]))
def test_every_type_is_written_as_it_was_read(tmp_path_factory, table, rows_per_group, size):
    """Nulls and the size of mini-batches do not matter."""
    folder = tmp_path_factory.mktemp("echo")
    pq.write_table(table, folder / "t.parquet", row_group_size=rows_per_group)
    found = echoed(folder, size)
    is_rounded = pa.types.is_integer(table.schema.field("x").type) and table.column("x").null_count > 0
    before, after = ([plain(value, is_rounded) for value in each.column("x").to_pylist()] for each in (table, found))
    assert after == before
    assert found.column("n").to_pylist() == table.column("n").to_pylist()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.list_(pa.int64()), [[1, None], [2**53 + 1], None, []]),
        (pa.struct([("a", pa.int64())]), [{"a": 2**53 + 1}, {"a": None}, None, {"a": 1}]),
        (pa.list_(pa.struct([("a", pa.uint64())])), [[{"a": 2**64 - 1}, {"a": None}], [], None, [{"a": 1}]]),
        (pa.struct([("a", pa.list_(pa.uint64()))]), [{"a": [2**63, None]}, None, {"a": []}, {"a": [1]}]),
        (pa.map_(pa.string(), pa.int64()), [[("a", 2**53 + 1), ("b", None)], None, [], [("c", 1)]]),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_integers_beside_a_null_stay_integers(tmp_path, kind, values, size):
    """As floats they would lose digits, and change their type from one mini-batch to the next."""
    pq.write_table(pa.table({"x": pa.array(values, kind)}), tmp_path / "t.parquet", row_group_size=2)
    found = echoed(tmp_path, size)
    assert found.column("x").to_pylist() == values
    assert "int64" in str(found.schema.field("x").type)


def test_pickled_entries_of_a_map_are_a_plain_list(tmp_path):
    """Processes of the script may not have this package."""
    pq.write_table(pa.table({"x": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))}), tmp_path / "t.parquet")
    (cut,) = TabularDataset.from_parquet_files(tmp_path / "t.parquet").cuts(1, warn=lambda _: None)
    entries = Reader().read(json.loads(cut.work))["x"][0]
    assert entries == [("a", 1)]
    assert type(pickle.loads(pickle.dumps(entries))) is list


def test_view_types_are_read_and_written(tmp_path):
    """pyarrow does not convert them; newer writers use them for strings."""
    kinds = {"s": pa.list_(pa.string_view()), "b": pa.list_(pa.binary(2)), "l": pa.list_view(pa.binary_view())}
    values = {"s": [["a", None], None], "b": [[b"ab"], []], "l": [[b"a"], None]}
    table = pa.table({name: pa.array(values[name], kind) for name, kind in kinds.items()})
    try:
        pq.write_table(table, tmp_path / "t.parquet")
    except pa.ArrowNotImplementedError as error:  # the input, not what the product writes
        pytest.skip(f"pyarrow {pa.__version__} cannot write the input: {error}")
    assert echoed(tmp_path, 1 << 20).to_pydict() == values


def test_integers_beyond_int64_are_written(tmp_path):
    """They may be nested; Arrow by itself takes every integer for an int64."""
    rows = [{"a": [2**63], "b": {"c": 2**64 - 1}, "d": 2**63, "e": ("x", "y")}, {"a": None, "b": None, "d": None, "e": ()}]
    parts = Parts(tmp_path, "parquet")
    parts.add(0, rows)
    parts.add(1, [{"a": [1], "b": {"c": -1}, "d": 1, "e": None}])
    parts.publish(tmp_path / "r.parquet")
    found = pq.read_table(tmp_path / "r.parquet").to_pydict()
    assert found["a"] == [[2**63], None, [1]]
    assert found["b"] == [{"c": 2**64 - 1}, None, {"c": -1}]
    assert found["d"] == [2**63, None, 1]
    assert found["e"] == [["x", "y"], [], None]
