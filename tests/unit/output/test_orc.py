"""Rows published as one ORC file: their types come back, or the mini-batch fails with words about its column."""

import datetime as dt
import json
import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import orc

from prefect_parallel_run import TabularDataset
from prefect_parallel_run.child.reading import Reader
from prefect_parallel_run.child.rows import encode
from prefect_parallel_run.errors import OutputError, RowsDifferError

from .test_publication import TEXT, Parts

DURATION = re.escape(str(pa.array(pd.Series([dt.timedelta(seconds=1)])).type))  #: in nanoseconds before pandas 3


def read_back(path):
    """The rows as another step gets them."""
    cuts = TabularDataset.from_orc_files(path, allow_empty=True).cuts(1 << 20, warn=lambda _: None)
    return [Reader().read(json.loads(cut.work)) for cut in cuts]


@pytest.mark.parametrize(
    ("column", "kind", "values"),
    [
        (np.array([255, 1], "uint8"), "int16", [255, 1]),
        (np.array([2**32 - 1, 0], "uint32"), "int64", [2**32 - 1, 0]),
        (np.array([2**64 - 1, 0], "uint64"), "decimal128(20, 0)", [Decimal(2**64 - 1), Decimal(0)]),
        (np.array([-(2**63), 2**63 - 1]), "int64", [-(2**63), 2**63 - 1]),
        (np.array([1.5, -2], "float16"), "float", [1.5, -2]),
        (pd.Categorical(["a", "b"]), "string", ["a", "b"]),
        ([True, False], "bool", [True, False]),
        (pd.array([1, None], "Int64"), "int64", [1, None]),
        ([None, None], "string", [None, None]),
        (["é", None], "string", ["é", None]),
        ([b"\xff", b""], "binary", [b"\xff", b""]),
        ([dt.date(1600, 1, 1), None], "date32[day]", [dt.date(1600, 1, 1), None]),
        ([Decimal("1.50"), Decimal("-2")], "decimal128(3, 2)", [Decimal("1.50"), Decimal("-2.00")]),
        ([pd.Timestamp(-1), None], "timestamp[ns]", [pd.Timestamp(-1), None]),
        ([pd.Timestamp(-1, tz="Asia/Tokyo")], "timestamp[ns, tz=UTC]", [pd.Timestamp(-1, tz="UTC")]),
        ([[1], [], None], "list<item: int64>", [[1], [], None]),
        ([{"a": [None]}, {"a": None}], "struct<a: list<item: string>>", [{"a": [None]}, {"a": None}]),
    ],
    ids=str,
)
def test_values_keep_their_type_or_get_the_next_wider_one(tmp_path, column, kind, values):
    """ORC has no unsigned integers, half floats and categories, and keeps times in UTC."""
    parts = Parts(tmp_path, "orc")
    parts.add(0, pd.DataFrame({"n": range(len(column)), "x": column}))
    assert parts.publish(tmp_path / "r.orc").rows == len(column)
    found = orc.ORCFile(tmp_path / "r.orc").read().column("x")
    assert (str(found.type), found.to_pylist()) == (kind, values)


def test_mini_batches_share_one_schema(tmp_path):
    """As in a Parquet result: nulls get the type of the other values, and columns may have any order."""
    parts = Parts(tmp_path, "orc")
    parts.add(0, [{"a": 1, "b": None}])
    parts.add(1, [])
    parts.add(2, [{"b": "x", "a": 0.5}])
    parts.publish(tmp_path / "r.orc")
    (frame,) = read_back(tmp_path / "r.orc")
    assert frame["a"].tolist() == [1.0, 0.5]
    assert frame["b"].isna().tolist() == [True, False]
    parts.add(3, [{"a": "word", "b": "x"}])
    with pytest.raises(RowsDifferError, match=f"column 'a' is {TEXT} in mini-batch 3 and int64 in mini-batch 0"):
        parts.publish(tmp_path / "r.orc")


def test_result_without_rows_is_a_readable_file(tmp_path):
    """A later step finds nothing to do."""
    parts = Parts(tmp_path, "orc")
    parts.add(0, [])
    assert parts.publish(tmp_path / "r.orc").rows == 0
    assert pd.read_orc(tmp_path / "r.orc").empty
    assert read_back(tmp_path / "r.orc") == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (dt.timedelta(seconds=1), rf"column 'x' has values of type {DURATION}, which an ORC file cannot hold; return"),
        (dt.time(12, 30), r"column 'x' has values of type time64\[us\], which an ORC file cannot hold; return"),
        ({"y": [Decimal("1" * 39)]}, r"column 'x' has values of type decimal256\(39, 0\), which an ORC file cannot hold"),
        (
            np.datetime64("1600-01-01", "s"),
            "column 'x' has times before 1677 or after 2262, which pyarrow cannot read from an ORC",
        ),
    ],
    ids=["duration", "time", "decimal", "far time"],
)
def test_value_that_orc_cannot_hold_fails_its_mini_batch(value, expected):
    """In its process, so that the other mini-batches are published."""
    with pytest.raises(ValueError, match=expected):
        encode(pd.DataFrame({"x": [value]}), "orc", with_header=False)


def test_rows_need_columns():
    """The error names the kind of file."""
    with pytest.raises(ValueError, match="the rows have no columns; an ORC file needs at least one"):
        encode(pd.DataFrame(index=range(2)), "orc", with_header=False)


def test_decimals_that_fit_only_one_by_one_are_an_error(tmp_path):
    """Together they need more digits than ORC has; nothing is published."""
    parts = Parts(tmp_path, "orc")
    parts.add(0, [{"x": Decimal("1" * 38)}])
    parts.add(1, [{"x": Decimal("0." + "1" * 38)}])
    with pytest.raises(OutputError, match="column 'x' needs 76 digits; an ORC file holds 38"):
        parts.publish(tmp_path / "r.orc")
    assert not list(tmp_path.glob("*.orc*"))
