"""Structured numpy arrays as rows: their fields are the columns of the result, in every format."""

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run.child.rows import encode

ARRAY = np.array([(2**60 + 1, 0.1, "x y"), (-3, np.nan, "z")], dtype=[("a", ">i8"), ("b", "<f4"), ("c", "U3")])
FORMATS = ["text", "csv", "jsonl", "parquet"]


def parquet(value):
    _, header, body = encode(value, "parquet", False)
    return pa.ipc.open_stream(header + body).read_all()


def test_fields_are_columns_in_every_format():
    """Also those in the byte order of another machine, as binary files have them."""
    assert encode(ARRAY, "text", True) == (2, b"a b c\n", b'1152921504606846977 0.1 "x y"\n-3  z\n')
    assert encode(ARRAY, "csv", False) == (2, b"a,b,c\n", b"1152921504606846977,0.1,x y\n-3,,z\n")
    rows = [json.loads(line) for line in encode(ARRAY, "jsonl", False).body.splitlines()]
    assert rows == [{"a": 2**60 + 1, "b": float(np.float32(0.1)), "c": "x y"}, {"a": -3, "b": None, "c": "z"}]
    table = parquet(ARRAY)
    assert [str(kind) for kind in table.schema.types][:2] == ["int64", "float"]
    assert table["a"].to_pylist() == [2**60 + 1, -3]
    assert encode(ARRAY[:0], "csv", False) == (0, b"a,b,c\n", b"")


@pytest.mark.parametrize("row_format", FORMATS)
@pytest.mark.parametrize("other", [list, tuple, lambda array: array.view(np.recarray), np.ma.masked_array])
def test_a_list_of_elements_gives_the_same_rows(row_format, other):
    """As do record arrays and masked arrays without gaps."""
    assert encode(other(ARRAY), row_format, True) == encode(ARRAY, row_format, True)


def test_elements_of_several_arrays_are_widened():
    """The field gets the widest type; different fields fail the attempt."""
    short, long = (
        np.array([("x", 1)], dtype=[("t", "U1"), ("n", "i1")]),
        np.array([("xyz", 2**40)], dtype=[("t", "U3"), ("n", "i8")]),
    )
    assert encode([short[0], long[0]], "csv", False).body == f"x,1\nxyz,{2**40}\n".encode()
    for second in (ARRAY[0], 5):
        with pytest.raises(ValueError, match="row 1 of this mini-batch has different columns than row 0"):
            encode([short[0], second], "csv", False)


def test_fields_in_fields_are_kept():
    """Several values as a list, fields of a field as a struct; dates keep their nanoseconds."""
    moment = "2020-01-01T00:00:00.123456789"
    kind = [("v", "i4", (2, 2)), ("s", [("p", "i2"), ("t", "M8[ns]")]), ("t", "M8[ns]")]
    array = np.array([([[1, 2], [3, 4]], (5, moment), moment), ([[0, 0], [0, 0]], (6, "NaT"), "NaT")], dtype=kind)
    expected = [
        {"v": [[1, 2], [3, 4]], "s": {"p": 5, "t": moment}, "t": moment},
        {"v": [[0, 0], [0, 0]], "s": {"p": 6, "t": None}, "t": None},
    ]
    assert [json.loads(line) for line in encode(array, "jsonl", False).body.splitlines()] == expected
    table = parquet(array)
    assert table["v"].to_pylist() == [row["v"] for row in expected]
    assert table["s"].to_pylist() == [row["s"] for row in expected]
    assert table["t"].cast(pa.int64()).to_pylist() == [np.datetime64(moment).astype(int), None]
    first = encode(array, "csv", False).body.splitlines()[0]
    assert first == f"\"[[1, 2], [3, 4]]\",\"{{'p': 5, 't': '{moment}'}}\",{moment.replace('T', ' ')}".encode()


@pytest.mark.parametrize("row_format", FORMATS)
def test_more_dimensions_are_refused(row_format):
    """It would be ambiguous what a row is."""
    with pytest.raises(ValueError, match=r"structured numpy.ndarray of 2 dimensions; expected 1 .* return array.ravel\(\)"):
        encode(ARRAY.reshape(2, 1), row_format, False)


KINDS = ["i1", ">i2", "<i4", "i8", "u8", ">f4", "f8", "?", "U4", "M8[s]"]


@given(data=st.data(), kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4), rows=st.integers(1, 5))
def test_each_field_reads_back_as_itself(data, kinds, rows):
    """With the type of the field, as a plain array of it would have; what is masked is a gap, and no number is rounded."""
    array = np.zeros(rows, dtype=[(f"c{place}", kind) for place, kind in enumerate(kinds)])
    masks = np.zeros(rows, dtype=np.ma.make_mask_descr(array.dtype))
    for name in array.dtype.names:
        kind = array.dtype[name]
        for row in range(rows):
            masks[name][row] = data.draw(st.booleans())
            if kind.kind in "iu":
                array[name][row] = data.draw(st.integers(np.iinfo(kind).min, np.iinfo(kind).max))
            elif kind.kind == "f":
                array[name][row] = data.draw(st.floats(width=8 * kind.itemsize, allow_nan=False, allow_infinity=False))
            elif kind.kind == "U":
                array[name][row] = data.draw(st.text('ab ,"', max_size=4))
            elif kind.kind == "M":
                array[name][row] = data.draw(st.integers(0, 2**32))
            else:
                array[name][row] = data.draw(st.booleans())
    masked = np.ma.masked_array(array, mask=masks)
    table = parquet(masked)
    text = encode(masked, "csv", False)
    back = pd.read_csv(io.BytesIO(text.header + text.body), dtype=str, keep_default_na=False)
    for name in array.dtype.names:
        values = array[name].tolist()
        expected = [None if gap else value for value, gap in zip(values, masks[name].tolist(), strict=True)]
        assert table[name].to_pylist() == expected
        plain = pa.array(array[name].astype(array.dtype[name].newbyteorder("="))).type
        text = pa.array(pd.Series(expected, dtype=pd.Series([""]).dtype)).type if array.dtype[name].kind == "U" else plain
        assert table[name].type in (plain, text)
        if array.dtype[name].kind in "iu":
            assert back[name].tolist() == ["" if value is None else str(value) for value in expected]
