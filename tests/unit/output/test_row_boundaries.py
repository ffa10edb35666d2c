"""The text of a result is split into its rows, wherever their values contain newlines and quotes."""

import csv

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_parallel_run.child.rows import Records, encode
from prefect_parallel_run.output.formats import OUTPUT_FORMATS

from .test_column_order import OPTIONS, TEXT

VALUES = st.one_of(TEXT, st.integers(), st.none())


def joined(rows, options):
    return "".join(f"{row}\n" for row in rows).encode(options.get("encoding", "utf-8"), "surrogateescape")


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(["csv", "text"]), st.sampled_from(OPTIONS), st.booleans(), st.sampled_from([1, 100]))
def test_rows_whose_values_are_quoted_are_whole(data, row_format, options, is_frame, times):
    """Each row of each mini-batch is one element; joined, they are the published text."""
    fewest = 2 if options.get("quoting") == csv.QUOTE_NONE else 1  # pandas must quote a row that is one empty field
    names = data.draw(st.lists(TEXT.filter(bool), min_size=fewest, max_size=3, unique=True))
    row = st.lists(VALUES, min_size=len(names), max_size=len(names))
    tables = [rows * times for rows in data.draw(st.lists(st.lists(row, min_size=1, max_size=3), min_size=1, max_size=3))]
    encoded = []
    for rows in tables:
        records = Records(dict(zip(names, row, strict=True)) for row in rows)
        value = pd.DataFrame(rows, columns=names, dtype=object) if is_frame else records
        encoded.append(encode(value, row_format, True, options))
    split = OUTPUT_FORMATS[row_format].split
    text = encoded[0].header + b"".join(rows.body for rows in encoded)
    rows = split(text, 1 + sum(map(len, tables)), options)
    alone = split(encoded[0].header, 1, options)
    for part in encoded:
        alone += split(part.body, part.rows, options)
    assert rows == alone
    assert len(rows) == 1 + sum(map(len, tables))
    assert joined(rows, options) == text


@given(st.sampled_from(["text", "jsonl"]), st.lists(st.lists(TEXT, max_size=4), min_size=1))
def test_rows_that_nothing_quotes_are_lines(row_format, tables):
    """Strings of a list, as they are; if none has a newline, lines are rows, also those with half a pair of quotes."""
    encoded = [encode(rows, row_format, False) for rows in tables]
    text = b"".join(rows.body for rows in encoded)
    rows = OUTPUT_FORMATS[row_format].split(text, sum(map(len, tables)), {})
    assert joined(rows, {}) == text
    if row_format == "jsonl" or not any("\n" in row for rows in tables for row in rows):
        assert rows == [line for part in encoded for line in part.body.decode().split("\n")[:-1]]
        assert len(rows) == sum(map(len, tables))


def test_a_newline_outside_quotes_makes_lines():
    """The end of a row is unknown."""
    for text in (b'say "a\nb"\n', b"a\nb\n", b'"a\nb\n', b'"a\nb"c\nd\n', b'"a\nb"\nc\nd\n'):
        assert OUTPUT_FORMATS["text"].split(text, text.count(b"\n") - 2, {}) == text.decode().split("\n")[:-1]
