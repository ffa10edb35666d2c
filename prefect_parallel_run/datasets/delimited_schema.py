"""The types of delimited text: Arrow's quick verdict where it must be that of pandas, and pandas' own where it might not be.

Arrow reads a block on all cores. Its whole numbers, fractions, truth values and dates say what pandas would say, except
where the two read numbers differently: hexadecimal ones, a plus sign, not-a-number, more than 64 bits. A text settles a
column for the whole file, and most texts are seen to be texts: they hold a letter that no number holds.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from prefect_parallel_run.child.csv_dialect import pandas_options
from prefect_parallel_run.child.text import BOM
from prefect_parallel_run.datasets.input_warnings import Column
from prefect_parallel_run.datasets.schema import (
    BOOL,
    BOOL_OR_NULL,
    FLOAT,
    INT,
    NEGATIVE,
    NULL,
    TEXT,
    is_number,
    kinds_in_frame,
    together,
)

# What pandas takes for a gap and for a truth value (read_csv, na_values and true_values).
_GAPS = ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"]
_GAPS += ["NULL", "NaN", "None", "n/a", "nan", "null"]
_TRUE, _FALSE = ["True", "TRUE", "true"], ["False", "FALSE", "false"]
_NO_NUMBER = r"[^0-9eEiInNfFtTyY.,+\-\t\n\v\f\r ]"  #: no number, infinity included, holds such a letter
_TRUTH = r"(?i)^(true|false)$"  #: pandas takes them in any case
_INTEGER = r"\s*[+-]?[0-9]+\s*"
_LARGE = 2.0**63
_ARROW_BLOCK = 1 << 20  #: bytes that one thread takes


class DelimitedTypes:
    """What is found in each column of a file, block by block."""

    def __init__(self, dialect: Mapping[str, Any], columns: Sequence[str], given: Mapping[int, str] | None = None) -> None:
        """Look at no block yet.

        Args:
            dialect: As a mini-batch's work names it.
            columns: Their names, or numbers where there is no header.
            given: The types that need not be found, by place of the column.
        """
        fields = range(dialect.get("fields", len(columns)))
        self._columns = columns
        self._given = {**(given or {}), **dict.fromkeys(fields[len(columns) :], "string")}
        self._found: list[set[str]] = [set() for _ in fields]
        self._examples: dict[int, str] = {}  #: by place of the column: the first text where a number could be
        self._options = {**pandas_options({**dialect}), "header": None, "encoding_errors": "replace", "on_bad_lines": "skip"}
        self._options |= {"names": fields, "index_col": False}
        self._parsing = {
            "delimiter": dialect["delimiter"],
            "quote_char": dialect["quote"] or False,
            "double_quote": dialect.get("double_quote", True),
            "escape_char": dialect.get("escape") or False,
        }
        self._decimal = dialect.get("decimal", ".")
        usual_gaps = _GAPS if dialect.get("keep_default_na", True) else ()
        self._gaps = [*usual_gaps, *(form for text in dialect.get("na_values") or () for form in _forms(text))]

    def add(self, data: bytes, rows: int) -> None:
        """Look at whole records, of which *rows* are more than blanks."""
        wanted = [place for place, kinds in enumerate(self._found) if TEXT not in kinds and place not in self._given]
        if not rows or not wanted:
            return
        table = None if b"\0" in data or data.startswith(BOM) else self._arrow(data, rows, wanted)
        if table is None or table.num_rows != rows:
            kinds, frame = self._asked(data, None)
            self._note(range(len(self._found)), kinds, lambda number: frame.iloc[:, number])
            return
        # One byte is looked for at memory's speed, two are not.
        has_hexadecimals = (b"x" in data and b"0x" in data) or (b"X" in data and b"0X" in data)
        signs = _Signs(has_hexadecimals, has_plus=b"+" in data, has_minus=b"-" in data)
        quick = [_verdict(column, signs) for column in table.columns]
        asked = [place for place, kinds in zip(wanted, quick, strict=True) if kinds is None]
        answers = dict(zip(asked, self._asked(data, asked)[0] if asked else (), strict=True))
        self._note(
            wanted,
            [answers[place] if kinds is None else kinds for place, kinds in zip(wanted, quick, strict=True)],
            lambda number: _texts(table[number]),
        )

    def types(self) -> list[str]:
        """Return the type of every column as it is given, or as the whole file has it."""
        return [self._given.get(place) or together(self._found[place]) for place in range(len(self._columns))]

    def columns(self) -> list[Column]:
        """Return what is in every column whose type is not given, and in those of texts the first that is no number."""
        return [
            Column(name, NULL if kinds <= {NULL} else together(kinds), self._examples.get(place))
            for place, (name, kinds) in enumerate(zip(self._columns, self._found, strict=False))
            if place not in self._given
        ]

    def _note(self, places: Iterable[int], kinds: Sequence[set[str]], column: Callable[[int], Iterable[Any]]) -> None:
        """Note *kinds* of the columns at *places*; *column* returns the values of one of them, numbered from 0."""
        for number, (place, new) in enumerate(zip(places, kinds, strict=True)):
            if TEXT in new and TEXT not in self._found[place]:
                example = _first_word(column(number), self._decimal)
                self._examples.update({} if example is None else {place: example})
            self._found[place] |= new

    def _arrow(self, data: bytes, rows: int, wanted: Sequence[int]) -> pa.Table | None:
        """Return the columns *wanted* as Arrow reads them; None when it cannot."""
        names = [str(place) for place in range(len(self._found))]
        reading = csv.ReadOptions(block_size=_ARROW_BLOCK, column_names=names)
        converting = csv.ConvertOptions(
            null_values=self._gaps,
            true_values=_TRUE,
            false_values=_FALSE,
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            decimal_point=self._decimal,
            include_columns=[str(place) for place in wanted],
        )
        parsing = csv.ParseOptions(**self._parsing, newlines_in_values=data.count(b"\n") > rows)  # quicker without
        try:
            return csv.read_csv(pa.BufferReader(data), reading, parsing, converting)
        except pa.ArrowException:  # records of different lengths, one that is longer than Arrow's block
            return None

    def _asked(self, data: bytes, places: Sequence[int] | None) -> tuple[list[set[str]], pd.DataFrame]:
        """Return the kinds that pandas finds in the columns at *places*, or in all of them, and what it reads."""
        frame = self._pandas(data, places)
        kinds = kinds_in_frame(frame)
        unsure = [number for number, found in enumerate(kinds) if found == {FLOAT} and _may_be_integers(frame.iloc[:, number])]
        texts = self._pandas(data, places, dtype=str) if unsure else frame
        for number in unsure:
            if texts.iloc[:, number].dropna().str.fullmatch(_INTEGER).all():
                kinds[number] = {NEGATIVE if (frame.iloc[:, number] < 0).any() else INT, NULL}
        return kinds, frame

    def _pandas(self, data: bytes, places: Sequence[int] | None, **options: Any) -> pd.DataFrame:
        """Return the columns at *places*, or all of them, as pandas reads them."""
        data = b"\n" + data if data.startswith(BOM) else data
        options |= self._options if places is None else {**self._options, "usecols": list(places)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # a record with too many fields is told when it is run
            frame: pd.DataFrame = pd.read_csv(io.BytesIO(data), **options)
        return frame


def _forms(text: str) -> Iterator[str]:
    """Yield what pandas takes for a gap beside the usual, when it is given *text* as one: whole numbers in two forms more.

    >>> list(_forms("-99")), list(_forms("n.v.")), list(_forms("1.5"))
    (['-99', '-99.0', '-99'], ['n.v.'], ['1.5'])
    """
    yield text
    if is_number(text) and float(text).is_integer():
        yield from (f"{int(float(text))}.0", str(int(float(text))))


def _first_word(values: Iterable[Any], decimal: str) -> str | None:
    """Return the first text among *values* that is no number; None where there is none."""
    return next((one for one in values if isinstance(one, str) and not is_number(one.replace(decimal, "."))), None)


def _texts(column: pa.ChunkedArray) -> Iterator[str | None]:
    """Yield the values of a column that Arrow has read as text; none of another one."""
    if pa.types.is_string(column.type):
        for chunk in column.chunks:
            yield from chunk.to_pylist()


class _Signs(NamedTuple):
    """What stands anywhere in a part of a file; without it a column needs no closer look."""

    has_hexadecimals: bool
    has_plus: bool
    has_minus: bool


def _verdict(column: pa.ChunkedArray, signs: _Signs) -> set[str] | None:
    """Return what pandas would find in a column; None when only pandas knows."""
    kind = column.type
    if pa.types.is_null(kind):
        return {NULL}
    if pa.types.is_boolean(kind):
        return {BOOL_OR_NULL if column.null_count else BOOL}
    if pa.types.is_integer(kind):
        return None if signs.has_hexadecimals else _kinds_of_integers(column, signs)
    if pa.types.is_floating(kind):
        return {FLOAT} if not signs.has_hexadecimals and _are_fractions(column, has_plus=signs.has_plus) else None
    return {TEXT} if pa.types.is_temporal(kind) or _holds_a_word(column) else None


def _kinds_of_integers(column: pa.ChunkedArray, signs: _Signs) -> set[str]:
    is_negative = signs.has_minus and pc.min(column).as_py() < 0
    return {NEGATIVE if is_negative else INT} | ({NULL} if column.null_count else set())


def _may_be_integers(column: pd.Series) -> bool:
    """True when pandas may have made floats of integers because some values are missing."""
    return bool(column.isna().any() and (column.dropna() % 1 == 0).all())


def _are_fractions(column: pa.ChunkedArray, *, has_plus: bool) -> bool:
    """True when all values fit 64 bits, none is not-a-number, and some is no whole number or none is written as one."""
    if not math.isfinite(pc.sum(column).as_py()):  # not-a-number, infinity, or numbers that are too large anyway
        return False
    bounds = pc.min_max(column).as_py()
    if not -_LARGE < bounds["min"] <= bounds["max"] < _LARGE:
        return False
    return not has_plus or bool(pc.any(pc.not_equal(column, pc.floor(column))).as_py())


def _holds_a_word(column: pa.ChunkedArray) -> bool:
    """True when a value can be neither a number nor a truth value."""
    for chunk in column.chunks:
        odd = chunk.filter(pc.match_substring_regex(chunk, _NO_NUMBER))
        if pc.all(pc.match_substring_regex(odd, _TRUTH)).as_py() is False:
            return True
    return False
