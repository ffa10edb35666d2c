"""Rows put together by Arrow are, byte for byte, those of pandas."""

import datetime as dt
import decimal
import enum
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_parallel_run.child.rows import encode
from prefect_parallel_run.child.rows_text import delimited


def by_pandas(frame, separator=" "):
    return frame.to_csv(sep=separator, index=False, header=False, lineterminator="\n").encode()


class Colour(str, enum.Enum):
    RED = "dark red"


class Level(enum.IntEnum):
    LOW = 1


class Shout(str):
    def __str__(self):
        return self.upper()


INTEGERS = [np.dtype(f"{kind}int{bits}") for kind in ("", "u") for bits in (8, 16, 32, 64)]
EDGES = [0.0, -0.0, 1.0, 1e-4, 9.99e-5, 1e-7, 999_999.94, 1e6, 1e10, 9_999_999_999.5, 1e13, 1e15, 1e16, 2.0**53, 1e22, 5e-324]
FLOATS = st.floats() | st.sampled_from(EDGES) | st.integers(-1000, 1000).map(float) | st.floats(1e-6, 1e11)
TEXT = st.text(st.sampled_from("ab \",;\n'\t\\é😀-#=\r\0\u2028\x1c"), max_size=3) | st.text(max_size=3)
MIXTURES = [
    [1, "a"],
    ["a", b"b"],
    [Colour.RED, "b"],
    [Level.LOW, 2],
    [Shout("a b"), np.str_("c d")],
    ["a", float("nan"), pd.NA, pd.NaT, None],
    [decimal.Decimal("NaN"), "a"],
    [1.5, 1e-7, None],
    [True, False, None],
    [2**70, 1],
    ["a", dt.date(2020, 1, 1)],
    [{"a": 1}, [1]],
    ["a", np.datetime64("NaT")],
    ["a", float("inf")],
    [np.float32(0.1), 0.1],
    ["\udcff", "a"],
]


def list_of(elements, size):
    return st.lists(elements, min_size=size, max_size=size)


def columns(size):
    """One column of *size* rows, of any kind that a script might return."""
    optional = st.none() | TEXT
    plain = st.none() | st.text(st.sampled_from('ab "\n,é'), max_size=3)
    return st.one_of(
        list_of(FLOATS, size).map(lambda values: np.array(values, "float64")),
        list_of(st.floats(width=32), size).map(lambda values: np.array(values, "float32")),
        st.tuples(st.sampled_from(INTEGERS), list_of(st.integers(0, 255), 8 * size)).map(
            lambda drawn: np.array(drawn[1], "uint8").view(drawn[0])[:size]
        ),
        list_of(st.booleans(), size).map(np.array),
        list_of(optional, size).map(lambda values: pd.Series(values, dtype=object)),
        list_of(plain, size).map(lambda values: pd.array(values, dtype="string")),
        list_of(plain, size).map(lambda values: pd.array(values, dtype=pd.ArrowDtype(pa.string()))),
        list_of(plain, size).map(lambda values: pd.Series(pd.array(values, dtype=pd.StringDtype("pyarrow")))),
        list_of(plain, size).map(pd.Series),
        list_of(plain, size).map(pd.Categorical),
        st.sampled_from(MIXTURES).flatmap(
            lambda mixture: list_of(st.sampled_from(mixture), size).map(lambda values: pd.Series(values, dtype=object))
        ),
        st.sampled_from(["Int64", "UInt8", "Float64", "boolean", "int64[pyarrow]", "bool[pyarrow]", "double[pyarrow]"]).flatmap(
            lambda kind: list_of(st.none() | st.sampled_from([0, 1]), size).map(lambda values: pd.array(values, dtype=kind))
        ),
        list_of(st.sampled_from(["2020-01-01", "2020-01-01T05:00", "NaT"]), size).map(
            lambda values: np.array(values, "datetime64[ns]")
        ),
        list_of(st.none() | st.integers(0, 3), size).map(pd.Categorical),
        list_of(st.integers(0, 1), size).map(pd.arrays.SparseArray),
        list_of(st.integers(0, 9), size).map(lambda values: np.array(values, ">i8")),
        list_of(st.floats(width=16), size).map(lambda values: np.array(values, "float16")),
    )


@st.composite
def frames(draw):
    size = draw(st.integers(0, 6))
    found = draw(st.lists(columns(size), max_size=4))
    frame = pd.DataFrame({place: pd.Series(column) for place, column in enumerate(found)})
    if draw(st.booleans()):
        frame.columns = ["same"] * len(found)
    return frame.iloc[draw(st.integers(0, 2)) :: draw(st.integers(1, 2))]


@given(frames(), st.sampled_from(" ,\t|"))
@settings(max_examples=400, deadline=None)
def test_rows_are_those_of_pandas_or_left_to_it(frame, separator):
    """Whatever a DataFrame holds."""
    rows = delimited(frame, separator)
    assert rows is None or rows == by_pandas(frame, separator)


@given(st.lists(columns(3), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_many_rows_are_written_like_few(found):
    """Only the speed depends on their number."""
    frame = pd.DataFrame({place: pd.Series(column) for place, column in enumerate(found)})
    rows = delimited(frame, " ")
    if rows is not None:
        assert encode(pd.concat([frame] * 40), "text", False).body == rows * 40 == by_pandas(frame) * 40


@pytest.mark.parametrize(
    "column",
    [
        np.arange(3),
        np.array([0.5, 2, np.nan]),
        np.array([1e-5, -np.inf, -0.0]),
        np.array([1, 0.1, 1e-7], "float32"),
        np.array([True, False, True]),
        pd.Series(["a", None, 'b "c"'], dtype=object),
        pd.Series(["a", None, ""], dtype="string"),
        pd.Series([1, None, 3], dtype="Int64"),
        pd.Series([True, None, False], dtype="boolean"),
        pd.Categorical(["a b", None, "c"]),
        pd.Series([None, None, None], dtype=object),
        np.arange(12).reshape(3, 4)[:, ::2],
    ],
    ids=lambda column: str(column.dtype),
)
def test_common_columns_do_not_wait_for_pandas(column):
    """Alone, where an empty field is written in quotes, and beside others."""
    alone = pd.DataFrame(column)
    assert delimited(alone, " ") == by_pandas(alone)
    beside = pd.concat([alone, pd.DataFrame({"a": ["x", "y z", ""]}), alone], axis=1)
    assert delimited(beside, ",") == by_pandas(beside, ",")


@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_floats_have_the_digits_of_numpy(kind):
    """Of all sizes, with many and with few digits, next to short ones and to powers of two."""
    random = np.random.default_rng(0)
    exponents = np.linspace(-14, 33, 2000)
    short = np.round(random.random(2000) * 10 ** (exponents / 3), 3)
    numbers = np.concatenate(
        [random.random(2000) * 2**exponents, short, 2 ** np.trunc(exponents), 10 ** np.trunc(exponents / 2)]
    )
    numbers = numbers.astype(kind)
    frame = pd.DataFrame(
        {"n": np.concatenate([numbers, -numbers, np.nextafter(numbers, 0), np.nextafter(numbers, numbers * 2)])}
    )
    assert delimited(frame, " ") == by_pandas(frame)


def test_text_that_is_no_utf8_fails_as_in_pandas():
    """An Arrow column can be made of any bytes."""
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    assert delimited(pd.DataFrame({"t": pd.array(broken, dtype=pd.ArrowDtype(pa.string()))}), " ") is None


def test_a_part_of_a_long_column_is_written_alone():
    """A slice of an Arrow column shares its memory with the whole."""
    text = pd.Series(["a b", "c", "d", "\r"], dtype=pd.ArrowDtype(pa.large_string()))
    assert delimited(pd.DataFrame({"t": text}).iloc[1:3], " ") == b"c\nd\n"


def test_a_subclass_writes_itself():
    """It may have a to_csv() of its own."""

    class Other(pd.DataFrame):
        pass

    assert delimited(Other({"a": [1]}), " ") is None


def test_without_pyarrow_pandas_writes(monkeypatch):
    """The script's interpreter need not have it."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    frame = pd.DataFrame({"a": range(200)})
    assert delimited(frame, " ") is None
    assert encode(frame, "text", False).body == by_pandas(frame)
