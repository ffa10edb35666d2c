"""Keywords of to_csv: same bytes as pandas, one header, and invalid keywords are errors in the configuration."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_parallel_run.child import rows_text
from prefect_parallel_run.child.rows import encode
from prefect_parallel_run.config.model import ParallelRunConfig

from ..config.test_model import wrong_fields
from ..output.test_publication import Parts

FRAME = pd.DataFrame(
    {
        "n": [0.5, float("nan"), -12345.678, 1e-7] * 50,
        "t": ["a;b", 'q"q', "", "é |\t,x"] * 50,
        "d": pd.to_datetime(["2020-01-02 03:04", "2021-01-01 00:00", None, "2022-05-06 01:00"] * 50),
        "b": [True, False, True, True] * 50,
    }
)
OPTIONS = [
    {"sep": ";"},
    {"sep": "\t", "na_rep": "NA"},
    {"sep": "|", "float_format": "%.2f", "date_format": "%d/%m/%Y"},
    {"decimal": ",", "sep": ";", "quoting": 2},
    {"quoting": 1, "quotechar": "'"},
    {"quoting": 3, "escapechar": "\\"},
    {"doublequote": False, "escapechar": "!"},
    {"columns": ["t", "n"], "header": ["text", "number"]},
    {"index": True, "index_label": "row"},
    {"sep": "."},
]


def by_pandas(frame, header, options, separator):
    return frame.to_csv(**{"sep": separator, "index": False, "lineterminator": "\n", **options, "header": header})


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("rows", [4, 200])
@pytest.mark.parametrize(("row_format", "separator"), [("text", " "), ("csv", ",")])
def test_the_bytes_are_those_of_pandas(options, rows, row_format, separator):
    """Of few rows, and of many, which Arrow writes if its output is the same."""
    frame = FRAME.iloc[:rows]
    found = encode(frame, row_format, True, options)
    expected = by_pandas(frame, options.get("header", True), options, separator)
    assert (found.rows, (found.header + found.body).decode()) == (rows, expected)
    assert encode(frame, "text", False, options).header == b""


@given(
    st.lists(st.floats(), min_size=1, max_size=4),
    st.lists(st.text(st.sampled_from('ab;|\t,". -1'), max_size=4), min_size=4, max_size=4),
    st.sampled_from(" ,;\t|.-1e"),
)
@settings(max_examples=150, deadline=None)
def test_any_separator_is_distinct_from_field_contents(numbers, texts, separator):
    """Arrow writes many rows only with separators that do not occur in numbers."""
    frame = pd.concat([pd.DataFrame({"n": pd.Series(numbers), "t": pd.Series(texts), "i": [1, -1, 11, 0]})] * 30)
    body = encode(frame, "text", False, {"sep": separator}).body
    assert body.decode() == by_pandas(frame, False, {}, separator)


def test_plain_separators_do_not_use_pandas(monkeypatch):
    """They are as fast as the blank."""
    asked = []
    monkeypatch.setattr(rows_text, "delimited", lambda frame, separator: asked.append(separator) or b"x")
    for options in ({"sep": ";"}, {"sep": "\t"}, {"sep": "1"}, {"sep": ";", "na_rep": "-"}, {}):
        encode(FRAME, "text", False, options)
    assert asked == [";", "\t", " "]


def test_the_encoding_applies_to_header_rows_and_elements():
    """A character outside the encoding fails the attempt."""
    frame = pd.DataFrame({"é": ["ü"]})
    assert encode(frame, "text", True, {"encoding": "latin-1"})[1:] == ("é\n".encode("latin-1"), "ü\n".encode("latin-1"))
    assert encode(["ü"], "text", False, {"encoding": "cp1252"}).body == "ü\n".encode("cp1252")
    assert encode(np.zeros(200), "text", False, {"encoding": "utf-16-le"}).body == ("0.0\n" * 200).encode("utf-16-le")
    with pytest.raises(UnicodeEncodeError):
        encode(["€"], "text", False, {"encoding": "latin-1"})


def test_list_elements_become_columns_in_csv_only():
    """As without options: str() in text, rows in csv."""
    rows = [{"a": 1, "b": None}, {"a": 2, "b": "x;y"}]
    assert encode(rows, "csv", False, {"sep": ";"}) == (2, b"a;b\n", b'1;\n2;"x;y"\n')
    assert encode([1, "a"], "text", True, {"sep": ";"}) == (2, b"", b"1\na\n")
    assert encode([], "csv", False, {"sep": ";"}) == (0, b"", b"")


def test_the_header_is_written_once(tmp_path):
    """Once per result, not once per part."""
    parts = Parts(tmp_path, "text", header=True)
    parts.options = {"sep": ";", "quoting": 1, "header": ["x", "y"]}
    for number in range(3):
        parts.add(number, pd.DataFrame({"a": [number], "b": ["z"]}))
    parts.publish(tmp_path / "r.txt")
    assert (tmp_path / "r.txt").read_text() == '"x";"y"\n"0";"z"\n"1";"z"\n"2";"z"\n'


@pytest.fixture
def config(tmp_path):
    (tmp_path / "score.py").write_text("")

    def make(options, **fields):
        given = {"entry_script": str(tmp_path / "score.py"), "error_threshold": 0, "output_action": "append_row"}
        return ParallelRunConfig(**given, append_row_csv_options=options, **fields)

    return make


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_valid_options_are_unchanged(config, options):
    """An empty mapping becomes None."""
    assert config(options).append_row_csv_options == options
    assert config({}).append_row_csv_options is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"separator": ";"}, "append_row_csv_options has 'separator'; expected one of sep, na_rep"),
        ({"mode": "a"}, "has 'mode'"),
        ({1: 2}, "has 1"),
        ({"sep": ""}, "['sep'] is ''; expected one character"),
        ({"sep": "\n"}, "one character other than a newline"),
        ({"quoting": 4}, "expected 0 (minimal)"),
        ({"quoting": True}, "expected 0 (minimal)"),
        ({"float_format": "two"}, "such as '%.3f'"),
        ({"header": True}, "append_row_header turns the line on or off"),
        ({"index": 1}, "true or false"),
        ({"encoding": "utf-8-sig"}, "byte order mark"),
        ({"encoding": "latin-99"}, "byte order mark"),
        ({"columns": []}, "a list of strings"),
        ({"sep": '"'}, "different characters"),
        ("sep=;", "a mapping of keywords"),
    ],
    ids=str,
)
def test_wrong_options_are_errors(config, options, message):
    """The error names keyword, value and what is expected."""
    with pytest.raises(ValueError) as caught:
        config(options)
    assert message in wrong_fields(caught.value)["append_row_csv_options"]


@pytest.mark.parametrize("row_format", ["jsonl", "parquet"])
def test_other_formats_reject_options(config, row_format):
    """They would silently have no effect."""
    with pytest.raises(ValueError, match=f"rows are written as {row_format}"):
        config({"sep": ";"}, append_row_format=row_format)
