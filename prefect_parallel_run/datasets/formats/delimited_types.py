"""Infers the types of delimited text: by Arrow where it always agrees with pandas, otherwise by pandas itself.

Arrow parses a block on all cores. Its integers, floats, booleans and dates agree with pandas, except where the two parse
numbers differently: hexadecimal numbers, a plus sign, NaN, more than 64 bits. One string decides the type of a column for the
whole file, and most strings are easy to recognize: they contain a letter that no number contains.
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

from prefect_parallel_run.child.delimited import pandas_options
from prefect_parallel_run.child.text import BOM
from prefect_parallel_run.datasets.schema import (
    BOOL,
    BOOL_OR_NULL,
    FLOAT,
    INT,
    NEGATIVE,
    NULL,
    TEXT,
    UINT,
    Column,
    is_number,
    together,
)

# Values that pandas parses as missing and as booleans (read_csv, na_values and true_values).
_MISSING = ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"]
_MISSING += ["NULL", "NaN", "None", "n/a", "nan", "null"]
_TRUE, _FALSE = ["True", "TRUE", "true"], ["False", "FALSE", "false"]
_NO_NUMBER = r"[^0-9eEiInNfFtTyY.,+\-\t\n\v\f\r ]"  #: characters that no number contains, infinity included
_BOOLEAN = r"(?i)^(true|false)$"  #: pandas accepts them in any case
_INTEGER = r"\s*[+-]?[0-9]+\s*"
_LARGE = 2.0**63
_ARROW_BLOCK = 1 << 20  #: bytes per thread


class DelimitedTypes:
    """Collects the kinds of values in each column of a file, block by block.

    Attributes:
        is_regular: Every record has as many fields as the file has columns; determined only if columns are skipped.
    """

    def __init__(
        self,
        dialect: Mapping[str, Any],
        columns: Sequence[str],
        declared: Mapping[int, str] | None = None,
        skipped: Sequence[int] = (),
    ) -> None:
        """Start without any block.

        Args:
            dialect: The dialect as in a mini-batch's work.
            columns: Names, or numbers without a header.
            declared: Types set by the user, by column index; these are not inferred.
            skipped: Indices of columns that have no type, because they are not kept.
        """
        fields = range(dialect.get("fields", len(columns)))
        self._columns = columns
        self._declared: dict[int, str | None] = {**(declared or {}), **dict.fromkeys(fields[len(columns) :], "string")}
        self._declared |= dict.fromkeys(skipped)
        self._has_skipped, self.is_regular = bool(skipped), True
        self._kinds: list[set[str]] = [set() for _ in fields]
        self._examples: dict[int, str] = {}  #: by column index: the first string that is not a number
        self._options = {**pandas_options({**dialect}), "header": None, "encoding_errors": "replace", "on_bad_lines": "skip"}
        self._options |= {"names": fields, "index_col": False}
        self._parsing = {
            "delimiter": dialect["delimiter"],
            "quote_char": dialect["quote"] or False,
            "double_quote": dialect.get("double_quote", True),
            "escape_char": dialect.get("escape") or False,
        }
        self._decimal = dialect.get("decimal", ".")
        default_missing = _MISSING if dialect.get("keep_default_na", True) else ()
        self._missing = [*default_missing, *(form for text in dialect.get("na_values") or () for form in _missing_forms(text))]

    def add(self, data: bytes, rows: int) -> None:
        """Add complete records, *rows* of which are not blank."""
        undecided = [index for index, kinds in enumerate(self._kinds) if TEXT not in kinds and index not in self._declared]
        if not rows or not (undecided or self._has_skipped):
            return
        table = None if b"\0" in data or data.startswith(BOM) else self._read_arrow(data, rows, undecided or [0])
        is_regular = table is not None and table.num_rows == rows
        self.is_regular = self.is_regular and is_regular
        if not undecided:
            return
        if table is None or not is_regular:
            kinds, frame = self._infer_by_pandas(data, None)
            self._record(range(len(self._kinds)), kinds, lambda number: frame.iloc[:, number])
            return
        # A search for one byte runs at the speed of memory, a search for two does not.
        has_hexadecimals = (b"x" in data and b"0x" in data) or (b"X" in data and b"0X" in data)
        signs = _Signs(has_hexadecimals, has_plus=b"+" in data, has_minus=b"-" in data)
        by_arrow = [_infer(column, signs) for column in table.columns]
        unsure = [index for index, kinds in zip(undecided, by_arrow, strict=True) if kinds is None]
        by_pandas = dict(zip(unsure, self._infer_by_pandas(data, unsure)[0] if unsure else (), strict=True))
        self._record(
            undecided,
            [by_pandas[index] if kinds is None else kinds for index, kinds in zip(undecided, by_arrow, strict=True)],
            lambda number: _strings(table[number]),
        )

    def types(self) -> list[str | None]:
        """Return the declared or inferred type of every column for the whole file; None for a skipped one."""
        inferred = (together(kinds) for kinds in self._kinds)
        return [self._declared.get(index, kind) for index, kind in enumerate(inferred)][: len(self._columns)]

    def columns(self) -> list[Column]:
        """Return the inferred columns; a column of strings has as example the first one that is not a number."""
        return [
            Column(name, NULL if kinds <= {NULL} else together(kinds), self._examples.get(index))
            for index, (name, kinds) in enumerate(zip(self._columns, self._kinds, strict=False))
            if index not in self._declared
        ]

    def _record(self, indices: Iterable[int], kinds: Sequence[set[str]], column: Callable[[int], Iterable[Any]]) -> None:
        """Record *kinds* of the columns at *indices*; *column* returns the values of the n-th of them."""
        for number, (index, new) in enumerate(zip(indices, kinds, strict=True)):
            if TEXT in new and TEXT not in self._kinds[index]:
                example = _first_word(column(number), self._decimal)
                self._examples.update({} if example is None else {index: example})
            self._kinds[index] |= new

    def _read_arrow(self, data: bytes, rows: int, indices: Sequence[int]) -> pa.Table | None:
        """Return the columns at *indices* as Arrow parses them; None when it cannot."""
        names = [str(index) for index in range(len(self._kinds))]
        reading = csv.ReadOptions(block_size=_ARROW_BLOCK, column_names=names)
        converting = csv.ConvertOptions(
            null_values=self._missing,
            true_values=_TRUE,
            false_values=_FALSE,
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            decimal_point=self._decimal,
            include_columns=[str(index) for index in indices],
        )
        parsing = csv.ParseOptions(**self._parsing, newlines_in_values=data.count(b"\n") > rows)  # False is faster
        try:
            return csv.read_csv(pa.BufferReader(data), reading, parsing, converting)
        except pa.ArrowException:  # records of different lengths, or one that is longer than Arrow's block
            return None

    def _infer_by_pandas(self, data: bytes, indices: Sequence[int] | None) -> tuple[list[set[str]], pd.DataFrame]:
        """Return the kinds that pandas infers for the columns at *indices* (None: all), and the parsed frame."""
        frame = self._read_pandas(data, indices)
        kinds = kinds_in_frame(frame)
        unsure = [number for number, kind in enumerate(kinds) if kind == {FLOAT} and _may_be_integers(frame.iloc[:, number])]
        strings = self._read_pandas(data, indices, dtype=str) if unsure else frame
        for number in unsure:
            if strings.iloc[:, number].dropna().str.fullmatch(_INTEGER).all():
                kinds[number] = {NEGATIVE if (frame.iloc[:, number] < 0).any() else INT, NULL}
        return kinds, frame

    def _read_pandas(self, data: bytes, indices: Sequence[int] | None, **options: Any) -> pd.DataFrame:
        data = b"\n" + data if data.startswith(BOM) else data
        options |= self._options if indices is None else {**self._options, "usecols": list(indices)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # a record with too many fields fails its mini-batch
            frame: pd.DataFrame = pd.read_csv(io.BytesIO(data), **options)
        return frame


def kinds_in_frame(frame: pd.DataFrame) -> list[set[str]]:
    """Return the kinds that pandas inferred for each column of one part of a delimited file."""
    return [_kinds(frame.iloc[:, index]) for index in range(frame.shape[1])]


def _kinds(column: pd.Series) -> set[str]:
    if column.isna().all():
        return {NULL}
    if pd.api.types.is_bool_dtype(column.dtype):
        return {BOOL}
    if column.dtype == "uint64":
        return {UINT}
    if column.dtype == "int64":
        return {NEGATIVE if (column < 0).any() else INT}
    if pd.api.types.is_float_dtype(column.dtype):
        return {FLOAT}
    are_booleans = column.dtype == object and all(isinstance(value, bool) for value in column.dropna())
    return {BOOL_OR_NULL if are_booleans else TEXT}  # integers beyond 64 bits too: only a string keeps every digit


def _missing_forms(text: str) -> Iterator[str]:
    """Yield the values that pandas parses as missing when *text* is in na_values: an integer also in two other forms.

    >>> list(_missing_forms("-99")), list(_missing_forms("n.v.")), list(_missing_forms("1.5"))
    (['-99', '-99.0', '-99'], ['n.v.'], ['1.5'])
    """
    yield text
    if is_number(text) and float(text).is_integer():
        yield from (f"{int(float(text))}.0", str(int(float(text))))


def _first_word(values: Iterable[Any], decimal: str) -> str | None:
    """Return the first string among *values* that is not a number, else None."""
    return next((value for value in values if isinstance(value, str) and not is_number(value.replace(decimal, "."))), None)


def _strings(column: pa.ChunkedArray) -> Iterator[str | None]:
    """Yield the values of a column that Arrow has parsed as strings; nothing for other columns."""
    if pa.types.is_string(column.type):
        for chunk in column.chunks:
            yield from chunk.to_pylist()


class _Signs(NamedTuple):
    """Which characters occur anywhere in a block; without them a column needs no closer check."""

    has_hexadecimals: bool
    has_plus: bool
    has_minus: bool


def _infer(column: pa.ChunkedArray, signs: _Signs) -> set[str] | None:
    """Return the kinds that pandas would infer for a column; None when only pandas can decide."""
    kind = column.type
    if pa.types.is_null(kind):
        return {NULL}
    if pa.types.is_boolean(kind):
        return {BOOL_OR_NULL if column.null_count else BOOL}
    if pa.types.is_integer(kind):
        return None if signs.has_hexadecimals else _kinds_of_integers(column, signs)
    if pa.types.is_floating(kind):
        return {FLOAT} if not signs.has_hexadecimals and _are_floats(column, has_plus=signs.has_plus) else None
    return {TEXT} if pa.types.is_temporal(kind) or _has_word(column) else None


def _kinds_of_integers(column: pa.ChunkedArray, signs: _Signs) -> set[str]:
    is_negative = signs.has_minus and pc.min(column).as_py() < 0
    return {NEGATIVE if is_negative else INT} | ({NULL} if column.null_count else set())


def _may_be_integers(column: pd.Series) -> bool:
    """True when pandas may have converted integers to floats because values are missing."""
    return bool(column.isna().any() and (column.dropna() % 1 == 0).all())


def _are_floats(column: pa.ChunkedArray, *, has_plus: bool) -> bool:
    """True when all values fit 64 bits, none is NaN, and some is not an integer or none is written with a plus sign."""
    if not math.isfinite(pc.sum(column).as_py()):  # NaN, infinity, or numbers that are too large anyway
        return False
    bounds = pc.min_max(column).as_py()
    if not -_LARGE < bounds["min"] <= bounds["max"] < _LARGE:
        return False
    return not has_plus or bool(pc.any(pc.not_equal(column, pc.floor(column))).as_py())


def _has_word(column: pa.ChunkedArray) -> bool:
    for chunk in column.chunks:
        candidates = chunk.filter(pc.match_substring_regex(chunk, _NO_NUMBER))
        if pc.all(pc.match_substring_regex(candidates, _BOOLEAN)).as_py() is False:
            return True
    return False
