"""Columns in another order are the same columns."""

import csv

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_parallel_run.errors import RowsDifferError
from prefect_parallel_run.output.formats.text import Dialect, reorder_columns

from .test_publication import Parts

OPTIONS = [
    {},
    {"sep": ";"},
    {"sep": "^", "quotechar": "'"},
    {"sep": "|", "quoting": csv.QUOTE_ALL},
    {"quoting": csv.QUOTE_NONNUMERIC},
    {"quoting": csv.QUOTE_NONE, "escapechar": "\\"},
    {"doublequote": False, "escapechar": "\\"},
    {"escapechar": "]"},
    {"encoding": "utf-16-le"},
    {"index": True},
]
TEXT = st.text(st.sampled_from("ab1 ,;|^\"'\\]\t\n\ré☃"), max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(["csv", "text"]), st.sampled_from(OPTIONS))
def test_fields_follow_the_order_of_the_header(tmp_path_factory, data, row_format, options):
    """The result equals that of rows in the column order of the first mini-batch."""
    names = data.draw(st.lists(TEXT.filter(bool), min_size=2, max_size=4, unique=True))
    row = st.lists(st.one_of(TEXT, st.integers(), st.none()), min_size=len(names), max_size=len(names))
    tables = [data.draw(st.lists(row, min_size=1, max_size=3)) for _ in range(3)]
    orders = [names, *(data.draw(st.permutations(names)) for _ in tables[1:])]
    results = []
    for order_of in (lambda number: orders[number], lambda _: names):
        folder = tmp_path_factory.mktemp("parts")
        parts = Parts(folder, row_format, header=True)
        parts.options = options
        for number, rows in enumerate(tables):
            parts.add(number, pd.DataFrame(rows, columns=names, dtype=object)[order_of(number)])
        assert parts.publish(folder / "r").rows == sum(map(len, tables))
        results.append((folder / "r").read_bytes())
    assert results[0] == results[1]


@pytest.mark.parametrize("row_format", ["csv", "parquet"])
def test_keys_of_dicts_may_be_in_any_order(tmp_path, row_format):
    """Between mini-batches as within one."""
    parts = Parts(tmp_path, row_format)
    parts.add(0, [{"a": 1, "b": "x,y"}])
    parts.add(1, [{"b": 'say "z"\n', "a": 2}, {"a": 3, "b": ""}])
    parts.publish(tmp_path / "r")
    frame = {"csv": lambda path: pd.read_csv(path, keep_default_na=False), "parquet": pd.read_parquet}[row_format](
        tmp_path / "r"
    )
    assert frame.to_dict("list") == {"a": [1, 2, 3], "b": ["x,y", 'say "z"\n', ""]}


def test_different_or_duplicate_columns_are_an_error(tmp_path):
    """Duplicate names cannot be reordered."""
    for names in ("ac", "aa"):
        parts = Parts(tmp_path, "csv")
        parts.add(0, pd.DataFrame([[1, 2]], columns=["b", "a"]), part=names)
        parts.add(1, pd.DataFrame([[1, 2]], columns=list(names)), part=names)
        with pytest.raises(RowsDifferError, match="mini-batch 1 has column"):
            parts.publish(tmp_path / "r")


@pytest.mark.parametrize("rows", [b"1\n", b"1,2,3\n", b"1,2", b'1,"2\n', b'1,"2"3\n'])
def test_malformed_rows_are_not_reordered(rows):
    """The order of their fields is never guessed."""
    assert reorder_columns(rows, b"a,b\n", b"b,a\n", Dialect(",")) is None
