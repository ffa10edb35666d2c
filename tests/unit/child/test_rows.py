"""From what run() returned to the bytes of the result file."""

import asyncio
import io
import json
import math
import pickle
import re
import sys
from asyncio import CancelledError
from enum import Enum

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run import RetryLater
from prefect_parallel_run.child.arrow_values import KEY
from prefect_parallel_run.child.rows import ExceptionReturned, WrongType, encode, materialize

UNDECODABLE = "utf-8", "surrogateescape"
FRAME = pd.DataFrame({"a": [1, 2], "b c": ["x y", 'q"'], "d": [0.5, float("nan")]})


class Named(str, Enum):
    A = "a"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "NoneType"),
        ("text", "str"),
        (b"x", "bytes"),
        ({"a": 1}, "dict"),
        ({1}, "set"),
        (5, "int"),
        (np.float64(1), "numpy.float64"),
        (np.zeros((1, 1, 1)), "numpy.ndarray of 3 dimensions"),
        (np.array(5), "numpy.ndarray of 0 dimensions"),
        (range(3), "range"),
    ],
)
def test_what_has_no_rows_is_refused_by_its_type(value, name):
    """The error says which type came."""
    with pytest.raises(WrongType, match=f"run\\(\\) returned {name}"):
        materialize(value)


def test_a_string_is_quoted_by_its_first_characters(monkeypatch):
    """Scripts return what they have caught; secrets are left out before the string is cut."""
    monkeypatch.setattr("prefect_parallel_run.child.failure._secrets", ["canary-7"])
    text = "Traceback\n" + "x" * 85 + "canary-7" + "y" * 1000
    with pytest.raises(WrongType) as caught:
        materialize(text)
    assert f"returned str 'Traceback\\n{'x' * 85}***yy'…; return a list" in str(caught.value)
    with pytest.raises(WrongType, match="returned str 'short'; return a list"):
        materialize("short")


@pytest.mark.parametrize("value", [[1, 2], (1, 2), FRAME, FRAME["a"], np.array([1, 2]), np.zeros((2, 3)), (x for x in (1, 2))])
def test_rows_are_counted(value):
    """A generator is consumed."""
    assert len(materialize(value)) == 2


def test_an_async_generator_is_refused():
    async def run():
        yield 1

    with pytest.raises(WrongType, match=r"run\(\) returned async_generator; return a list"):
        materialize(run())


@given(
    st.lists(st.sampled_from([1, "a", None, [2], {"b": 3}]), max_size=20), st.integers(0, 20), st.sampled_from([list, tuple])
)
def test_a_row_that_was_not_awaited_is_refused_anywhere(rows, place, kind):
    """Also among rows that are none, as a cache makes them."""

    async def fetch():
        """Never runs."""

    assert materialize(kind(rows)) == kind(rows)
    row = fetch()
    rows.insert(place, row)
    with pytest.raises(WrongType, match=f"returned a {kind.__name__} with a coroutine that was not awaited"):
        materialize(kind(rows))
    row.close()


def test_a_result_that_was_not_awaited_is_refused():
    """From def run(), or a second time from async def run()."""

    async def fetch():
        """Never runs."""

    async def run():
        return asyncio.gather(fetch())

    expected = r" that was not awaited \(await it in async def run\(\)\); return a list"
    with pytest.raises(WrongType, match=f"returned asyncio.*Future{expected}"):
        materialize(asyncio.run(run()))
    coroutine = fetch()
    with pytest.raises(WrongType, match=f"returned coroutine{expected}"):
        materialize(coroutine)
    coroutine.close()


def test_a_generator_of_coroutines_is_refused():
    async def fetch():
        """Never runs."""

    row = fetch()
    with pytest.raises(WrongType, match="returned a list with a coroutine that was not awaited"):
        materialize(row for row in [row])
    row.close()


EXCEPTIONS = [ValueError("bad value"), KeyError(), RetryLater(1), CancelledError(), SystemExit(2), ExceptionReturned("a", "b")]
ADVICE = "; raise it to fail the mini-batch, or leave it out of the returned rows to fail only its item"


@given(
    st.lists(st.sampled_from([1, "a", None, [2], {"b": 3}, ValueError]), max_size=20),
    st.integers(0, 20),
    st.lists(st.sampled_from(EXCEPTIONS), min_size=1, max_size=3),
    st.sampled_from([list, tuple, lambda rows: (row for row in rows)]),
)
def test_an_exception_among_the_rows_is_refused_anywhere(rows, place, exceptions, kind):
    """The first one is named; a class is not an exception."""
    rows[place:place] = exceptions
    place = min(place, len(rows) - len(exceptions))
    with pytest.raises(ExceptionReturned) as caught:
        materialize(kind(rows))
    name = type(exceptions[0]).__name__
    assert re.match(rf"row {place} that run\(\) returned is an? ([a-z.]+\.)?{name}\b", str(caught.value))
    assert str(caught.value).endswith(ADVICE)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ValueError("bad value"), "run() returned a ValueError: bad value"),
        ([1, ValueError("bad value")], "row 1 that run() returned is a ValueError: bad value"),
        ([RetryLater(1)], "row 0 that run() returned is a RetryLater"),
        ([OSError()], "row 0 that run() returned is an OSError"),
    ],
    ids=["value", "row", "directive", "without a message"],
)
def test_a_returned_exception_is_named_with_advice(value, text):
    with pytest.raises(ExceptionReturned) as caught:
        materialize(value)
    assert str(caught.value).startswith(text)
    assert str(caught.value).endswith(ADVICE)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_secrets_in_a_returned_exception_are_hidden(monkeypatch):
    monkeypatch.setattr("prefect_parallel_run.child.failure._secrets", ["canary-7"])
    with pytest.raises(ExceptionReturned, match=r"a ValueError: key \*\*\*; raise it"):
        materialize([ValueError("key canary-7")])


@given(st.lists(st.sampled_from(["a", "", "b\nc", "\udcff", Named.A, 1]), max_size=5), st.sampled_from([list, tuple]))
def test_text_writes_strings_as_it_writes_others(rows, kind):
    """Lists that are only strings take a shorter way."""
    assert encode(kind(rows), "text", False) == (len(rows), b"", "".join(f"{row!s}\n" for row in rows).encode(*UNDECODABLE))


def test_text_writes_elements_with_str():
    """Texts as they are; an empty result as nothing."""
    assert encode(["ä", 1, None, (1, "x")], "text", False) == (4, b"", "ä\n1\nNone\n(1, 'x')\n".encode())
    assert encode([], "text", True) == (0, b"", b"")
    assert encode(pd.Series([1.5, 2]), "text", True).body == b"1.5\n2.0\n"
    assert encode(np.array(["a", "b"]), "text", True).body == b"a\nb\n"


def test_text_writes_frames_as_pandas_does():
    """Blank between the fields, minimal quoting, a header only when asked for."""
    expected = FRAME.to_csv(sep=" ", header=False, index=False, lineterminator="\n").encode()
    assert encode(FRAME, "text", False) == (2, b"", expected)
    assert encode(FRAME, "text", True).header == b'a "b c" d\n'
    assert encode(np.array([[1, 2], [3, 4]]), "text", False).body == b"1 2\n3 4\n"


@pytest.mark.parametrize("kind", [np.array, pd.Series])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "uint8", "bool", "object", ">i8", "datetime64[ns]"])
@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, 0.1, 1e-7, 1e300, 255.0, float("inf"), float("nan")]), min_size=1, max_size=5))
def test_many_elements_are_written_like_few(kind, dtype, numbers):
    """With str(), and a NaN as that."""
    usable = [number for number in numbers if dtype in ("float64", "object") or 0 <= number < 256] or [1.0]
    value = kind(np.array(usable * 100).astype(dtype))
    assert encode(value, "text", False) == (len(value), b"", "".join(f"{element!s}\n" for element in value).encode())


def test_masked_elements_are_written_by_name():
    """A masked array is no plain one."""
    value = np.ma.masked_array(np.zeros(200), mask=[True, False] * 100)
    assert encode(value, "text", False).body == b"--\n0.0\n" * 100


def test_csv_always_has_a_header():
    """The reduction writes it once."""
    assert encode(FRAME, "csv", False).header == b"a,b c,d\n"
    assert encode(FRAME, "csv", False).body == FRAME.to_csv(header=False, index=False, lineterminator="\n").encode()
    assert encode([{"x": 1, "y": "a,b"}, {"y": "\n", "x": 2}], "csv", False) == (2, b"x,y\n", b'1,"a,b"\n2,"\n"\n')
    assert encode([[1, 2], (3, 4)], "csv", False) == (2, b"0,1\n", b"1,2\n3,4\n")
    assert encode(["a", "b"], "csv", False) == (2, b"value\n", b"a\nb\n")
    assert encode(pd.Series([1], name="s"), "csv", False) == (1, b"s\n", b"1\n")


@pytest.mark.parametrize("row_format", ["csv", "parquet"])
@pytest.mark.parametrize("rows", [[{"a": 1}, {"b": 1}], [{"a": 1}, 5], [[1, 2], [1]]])
def test_elements_with_other_columns_fail_the_try(row_format, rows):
    """The row is named; nothing is guessed."""
    with pytest.raises(ValueError, match="row 1 of this mini-batch"):
        encode(rows, row_format, False)


def test_json_lines_hold_one_object_per_row():
    """What JSON has no word for becomes null; numpy's numbers and dates become plain."""
    lines = encode(FRAME, "jsonl", False).body.decode().splitlines()
    assert [json.loads(line) for line in lines] == [{"a": 1, "b c": "x y", "d": 0.5}, {"a": 2, "b c": 'q"', "d": None}]
    odd = [{"n": np.int64(3), "v": np.array([1.0, np.inf]), "t": pd.Timestamp("2020-01-01"), "m": pd.NaT, "é": (1,)}, "x"]
    (one, other) = encode(odd, "jsonl", False).body.decode().splitlines()
    assert json.loads(one) == {"n": 3, "v": [1.0, None], "t": "2020-01-01T00:00:00", "m": None, "é": [1]}
    assert "é" in one
    assert other == '{"value":"x"}', "no blanks, as pandas writes it"
    assert json.loads(other) == {"value": "x"}


@pytest.mark.parametrize(
    ("elements", "columns"),
    [
        ([{"name": "a", "n": 1}, {"name": "b", "n": 2}, {"name": "c", "n": 3}], {"name": ["a", "b", "c"], "n": [1, 2, 3]}),
        ([("a", 1), ("b", 2), ("c", 3)], {"0": ["a", "b", "c"], "1": [1, 2, 3]}),
        (["a", "b", "c"], {"value": ["a", "b", "c"]}),
    ],
)
def test_parquet_takes_elements_of_a_list(elements, columns):
    """Dicts by key, tuples by place, anything else as one column."""
    _, header, body = encode(elements, "parquet", False)
    with pa.ipc.open_stream(header + body) as stream:
        assert stream.read_all().to_pydict() == columns


@pytest.mark.parametrize("row_format", ["parquet", "orc"])
@pytest.mark.parametrize("kind", [int, np.int64, lambda number: (number,), lambda number: {"value": number}])
def test_integers_beside_none_stay_integers(row_format, kind):
    """As floats, those beyond 2**53 would be other numbers."""
    _, header, body = encode([kind(2**60 + 1), None, kind(7)], row_format, False)
    (column,) = pa.ipc.open_stream(header + body).read_all().columns
    assert (column.type, column.to_pylist()) == (pa.int64(), [2**60 + 1, None, 7])


@pytest.mark.parametrize("number", [7, 2**53, 2**60])
def test_integers_beside_floats_are_floats_where_that_is_exact(number):
    _, header, body = encode([number, 0.5, None], "parquet", False)
    assert pa.ipc.open_stream(header + body).read_all().to_pydict() == {"value": [float(number), 0.5, None]}
    with pytest.raises(pa.ArrowInvalid, match="outside of the range exactly representable"):
        encode([2**60 + 1, 0.5, None], "parquet", False)


@pytest.mark.parametrize("values", [[2**60 + 1, None], [2**60 + 1, 0.5]], ids=["none", "float"])
def test_csv_options_keep_large_integers(values):
    """Like csv without options."""
    assert encode(values, "csv", False, {"sep": ";"}).body == encode(values, "csv", False).body


def test_parquet_travels_as_an_arrow_stream():
    """Types are kept, what pandas adds to a schema is not."""
    _, header, body = encode(FRAME, "parquet", False)
    table = pa.ipc.open_stream(header + body).read_all()
    pd.testing.assert_frame_equal(table.to_pandas(), FRAME)
    assert table.schema.metadata == {KEY: b"[]"}
    assert pa.ipc.read_schema(pa.py_buffer(header)).equals(table.schema, check_metadata=True)


def test_a_type_that_parquet_lacks_is_refused_in_the_process():
    """Not at the end of the run: the mini-batch fails with the column's name."""
    with pytest.raises(
        ValueError, match="column 'a' has values of type month_day_nano_interval, which a Parquet file cannot hold"
    ):
        encode([{"a": {"b": [pd.DateOffset(months=1)]}}], "parquet", False)


NULL_BYTE = "\0" if sys.version_info < (3, 11) else ""  # which Python's csv module refuses to write before 3.11


@given(
    st.lists(
        st.tuples(
            st.one_of(st.floats(), st.none(), st.integers()),
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters=NULL_BYTE), max_size=5),
            st.booleans(),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_a_csv_reads_back(rows):
    """Whatever the text holds: quotes, delimiters, newlines, more than one byte."""
    frame = pd.DataFrame(rows, columns=["n", "t", "b"]).astype({"t": object})
    rows, header, body = encode(frame, "csv", False)
    text = (header + body).decode()
    back = pd.read_csv(
        io.StringIO(text, newline=""), dtype=str, keep_default_na=False, lineterminator="\n" if "\r" in text else None
    )
    assert rows == len(frame) == len(back)


@given(st.floats())
def test_no_float_breaks_json(number):
    """NaN and infinity are no JSON."""
    line = json.loads(encode([number], "jsonl", False).body)
    assert line["value"] == number or not math.isfinite(number)
