"""Rows whose columns come in another order between mini-batches are the same columns."""

import csv

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_parallel_run.errors import RowsDifferError
from prefect_parallel_run.output.column_order import Dialect, reordered

from .test_append_row import Parts

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
def test_fields_follow_their_names(tmp_path_factory, data, row_format, options):
    """The result is that of rows whose columns all stand as in the first mini-batch."""
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
def test_dicts_are_known_by_their_keys(tmp_path, row_format):
    """As within a mini-batch."""
    parts = Parts(tmp_path, row_format)
    parts.add(0, [{"a": 1, "b": "x,y"}])
    parts.add(1, [{"b": 'say "z"\n', "a": 2}, {"a": 3, "b": ""}])
    parts.publish(tmp_path / "r")
    frame = {"csv": lambda path: pd.read_csv(path, keep_default_na=False), "parquet": pd.read_parquet}[row_format](
        tmp_path / "r"
    )
    assert frame.to_dict("list") == {"a": [1, 2, 3], "b": ["x,y", 'say "z"\n', ""]}


def test_other_columns_in_another_order_are_an_error(tmp_path):
    """As are columns of one name, which nothing tells apart."""
    for names in ("ac", "aa"):
        parts = Parts(tmp_path, "csv")
        parts.add(0, pd.DataFrame([[1, 2]], columns=["b", "a"]), part=names)
        parts.add(1, pd.DataFrame([[1, 2]], columns=list(names)), part=names)
        with pytest.raises(RowsDifferError, match="mini-batch 1 has column"):
            parts.publish(tmp_path / "r")


@pytest.mark.parametrize("rows", [b"1\n", b"1,2,3\n", b"1,2", b'1,"2\n', b'1,"2"3\n'])
def test_rows_that_are_no_rows_of_these_columns_are_left_alone(rows):
    """Never guessed."""
    assert reordered(rows, b"a,b\n", b"b,a\n", Dialect(",")) is None
