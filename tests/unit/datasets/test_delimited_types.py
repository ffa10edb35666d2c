"""Arrow infers the same type for a column as pandas, for any column."""

import json

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefect_parallel_run import TabularDataset
from prefect_parallel_run.datasets import text as module
from prefect_parallel_run.datasets.formats.delimited_types import DelimitedTypes

HOSTILE = [
    " 5",
    "+5",
    " +5",
    "1e5",
    "1E+5",
    "007",
    "0x1F",
    " 0X1f",
    "-0x1",
    "1_000",
    str(2**53 + 1),
    str(2**63 - 1),
    str(2**63),
]
HOSTILE += [str(2**64), str(-(2**63)), str(-(2**63) - 1), "1" + "0" * 400, "inf", "-Infinity", "+inf", "iNf", "infinit", "NaN"]
HOSTILE += [
    "nan",
    "NAN",
    "Nan",
    "nan(x)",
    "-nan",
    "NA",
    "null",
    "None",
    "N/A",
    "#N/A",
    "<NA>",
    "",
    '""',
    '"5"',
    '" 5"',
    '"NA"',
    "TRUE",
]
HOSTILE += [
    "True",
    "true",
    "tRUE",
    "False",
    "FALSE",
    " True",
    "yes",
    "T",
    "f",
    "2024-01-01",
    "2024-01-01 10:00",
    "12:30",
    "12:30:00",
]
HOSTILE += [
    "2024-01-01T00:00:00Z",
    "1.",
    ".5",
    "-.5",
    "1,5",
    "1.5",
    "-",
    "+",
    ".",
    "e",
    "5e",
    "1e400",
    "1e-400",
    "1 5",
    "5 ",
    "5\t",
    "\t5",
]
HOSTILE += [
    "٣",
    "é",
    "5\xa0",
    "0",
    "-0",
    "1",
    "2",
    "3",
    "00000000000000000000000000007",
    "0.1234567890123456789012345",
    "1.0",
    "\x0b5",
]
HOSTILE += [
    "--5",
    "0b1",
    "5f",
    "5L",
    "1'000",
    "5%",
    "\u20285",
    "5\0",
    "1e5.5",
    "9" * 19,
    "-" + "9" * 19,
    "1.e5",
    "4.0e18",
    "1.0e19",
]
NUMBERS = st.sampled_from(
    [" 5", "+5", "007", "1", "-2", "1.5", "1e5", "", str(2**63), str(2**63 - 1), str(2**64), "inf", "nan", "NAN"]
)
COLUMN = st.one_of(
    st.lists(st.sampled_from(HOSTILE), min_size=4, max_size=4),
    st.lists(NUMBERS, min_size=4, max_size=4),
    st.tuples(st.sampled_from(HOSTILE)).map(lambda one: list(one) * 4),
    st.tuples(NUMBERS, st.sampled_from(HOSTILE)).map(lambda pair: [*pair, *pair]),
)
AS_GIVEN = {"delimiter": ";", "quote": '"'}


def verdicts(dialect, columns, data, rows, *, quickly, monkeypatch):
    types = DelimitedTypes(dialect, columns)
    if not quickly:
        monkeypatch.setattr(types, "_read_arrow", lambda data, rows, indices: None)
    for part in data:
        types.add(part, rows)
    return types.types()


@given(columns=st.lists(COLUMN, min_size=1, max_size=4), decimal=st.sampled_from([".", ","]), keep=st.booleans())
@example(columns=[[value] * 4 for value in HOSTILE], decimal=".", keep=True)
@example(columns=[[value] * 4 for value in HOSTILE], decimal=",", keep=True)
@example(columns=[[value, "1", "", "1.5"] for value in HOSTILE], decimal=".", keep=True)
@example(columns=[[value, "1", "1", "2"] for value in HOSTILE], decimal=".", keep=True)
@example(columns=[[value, "True", "False", ""] for value in HOSTILE], decimal=".", keep=True)
@example(columns=[["1", "1", str(2**63), "-.5"]], decimal=".", keep=True)
@example(columns=[[value, "1", "-", "1.5"] for value in HOSTILE], decimal=".", keep=False)
@example(columns=[[value, "", "1", "2"] for value in HOSTILE], decimal=".", keep=False)
def test_inferred_types_equal_those_of_pandas(columns, decimal, keep):
    """This holds for each block, and for all blocks together."""
    rows = ["k;" + ";".join(row) + "\n" for row in zip(*columns, strict=True)]
    parts = ["".join(rows[:2]).encode(), "".join(rows[2:]).encode()]
    names = ["key", *(f"c{number}" for number in range(len(columns)))]
    with pytest.MonkeyPatch.context() as patch:
        for data, count in ((parts, 2), ([b"".join(parts)], 4)):
            dialect = {**AS_GIVEN, "decimal": decimal, "keep_default_na": keep, "na_values": None if keep else ["-", "NA"]}
            quick = verdicts(dialect, names, data, count, quickly=True, monkeypatch=patch)
            exact = verdicts(dialect, names, data, count, quickly=False, monkeypatch=patch)
            assert quick == exact, [(q, e, c) for q, e, c in zip(quick[1:], exact[1:], columns, strict=True) if q != e]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_single_value_has_the_type_of_pandas(value, monkeypatch):
    """It is alone in its column, or beside a missing value, number, boolean or word."""
    for others in (["1", "2"], ["", ""], ["1.5", "x"], ["True", "False"], ["1", ""]):
        data = "".join(f"k;{one}\n" for one in (value, *others)).encode()
        quick = verdicts(AS_GIVEN, ["key", "c"], [data], 3, quickly=True, monkeypatch=monkeypatch)
        exact = verdicts(AS_GIVEN, ["key", "c"], [data], 3, quickly=False, monkeypatch=monkeypatch)
        assert quick == exact, (value, others)


def test_common_columns_do_not_need_pandas(monkeypatch):
    """This makes planning fast: numbers, missing values, booleans, dates, words."""
    monkeypatch.setattr(DelimitedTypes, "_read_pandas", None)
    types = DelimitedTypes({"delimiter": ",", "quote": '"'}, ["i", "f", "g", "b", "c", "d", "w", "n"])
    types.add(b'1,1.5,,True,True,2024-01-31,"one, two",\n-2,2,7,False,,2024-02-01,three,NA\n', 2)
    types.add(b"3,4,5,True,True,x,5,\n", 1)
    assert types.types() == ["int", "float", "float", "bool", "bool_or_null", "text", "text", "float"]


@given(
    ragged=st.lists(
        st.sampled_from(
            [
                "1,2",
                "1",
                "1,2,3",
                "",
                " ",
                '"a',
                "1,x",
                '5" pipe,1',
                '"1"2,3',
                '1"2,3',
                '"1""2",3',
                '"1\n2",3',
                '" 1",2',
                ' "1",2',
            ]
        ),
        min_size=1,
        max_size=6,
    )
)
def test_ragged_records_are_parsed_by_pandas(ragged):
    """Types are the same, and the file can be planned; the mini-batch reports the bad record."""
    data = ("1,2\n" + "\n".join(ragged) + "\n").encode()
    rows = sum(bool(line.strip()) for line in data.splitlines())
    with pytest.MonkeyPatch.context() as patch:
        try:
            exact = verdicts({"delimiter": ",", "quote": '"'}, ["a", "b"], [data], rows, quickly=False, monkeypatch=patch)
        except pd.errors.ParserError:  # an open quote: refused before types are looked at
            return
        assert verdicts({"delimiter": ",", "quote": '"'}, ["a", "b"], [data], rows, quickly=True, monkeypatch=patch) == exact


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8"])
def test_words_are_recognised_in_any_encoding(tmp_path, encoding, monkeypatch):
    """The bytes may not be UTF-8."""
    monkeypatch.setattr(module, "_BLOCK", 10)
    path = tmp_path / "t.csv"
    path.write_bytes("é;ü\n1;ä\n2;ö\n".encode(encoding))
    (cut,) = TabularDataset.from_delimited_files(path, delimiter=";", encoding=encoding).as_named_input("t").cuts(1 << 20)
    work = json.loads(cut.work)
    assert (work["columns"], work["types"]) == (["é", "ü"], ["int", "text"])
