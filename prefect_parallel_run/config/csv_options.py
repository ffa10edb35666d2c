"""Keywords of pandas.DataFrame.to_csv for the rows of a result, and the values each accepts. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import ValidationInfo

from prefect_parallel_run._units import is_int, shown
from prefect_parallel_run.config.validation import invalid


class _Keyword(NamedTuple):
    is_valid: Callable[[Any], bool]
    expected: str


def _is_float_format(value: Any) -> bool:
    try:
        return isinstance(value, str) and isinstance(value % 1.5, str) and "%" in value
    except (TypeError, ValueError):
        return False


def _is_encoding(value: Any) -> bool:
    """True for an encoding that writes no byte order mark: encoding two strings separately equals encoding their sum."""
    try:
        return isinstance(value, str) and "a\n1".encode(value) == "a\n".encode(value) + "1".encode(value)
    except (LookupError, UnicodeError, TypeError):
        return False


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(text, str) for text in value)


def _text(expected: str) -> _Keyword:
    return _Keyword(lambda value: isinstance(value, str) and "\0" not in value, expected)


_CHARACTER = _Keyword(
    lambda value: isinstance(value, str) and len(value) == 1 and value not in "\r\n\0", "one character other than a newline"
)
_BOOLEAN = _Keyword(lambda value: isinstance(value, bool), "true or false")
_STRINGS = _Keyword(_are_strings, "a list of strings")
KEYWORDS: dict[str, _Keyword] = {
    "sep": _CHARACTER,
    "na_rep": _text("a string"),
    "float_format": _Keyword(_is_float_format, "a format for one number, such as '%.3f'"),
    "date_format": _text("a format for dates, such as '%Y-%m-%d'"),
    "decimal": _CHARACTER,
    "columns": _STRINGS,
    "header": _Keyword(
        _are_strings, "a list of strings, the names in the header line; append_row_header turns the line on or off"
    ),
    "index": _BOOLEAN,
    "index_label": _text("a string"),
    "quoting": _Keyword(lambda value: is_int(value) and 0 <= value <= 3, "0 (minimal), 1 (all), 2 (not numbers) or 3 (none)"),
    "quotechar": _CHARACTER,
    "doublequote": _BOOLEAN,
    "escapechar": _CHARACTER,
    "encoding": _Keyword(_is_encoding, "a Python encoding without a byte order mark"),
}


def csv_options(value: Any, info: ValidationInfo) -> Any:
    """Return the keywords of to_csv; an empty mapping becomes None."""
    if value is None or value == {}:
        return None
    if not isinstance(value, dict):
        raise invalid(info, value, "a mapping of keywords of to_csv, or None")
    return check_keywords(value, str(info.field_name))


def check_keywords(keywords: dict[Any, Any], where: str) -> dict[str, Any]:
    """Return *keywords*; raises ValueError, starting with *where*, for an unknown keyword or an invalid value."""
    for name, value in keywords.items():
        if name not in KEYWORDS:
            raise ValueError(f"{where} has {shown(name)}; expected one of {', '.join(KEYWORDS)}")
        if not KEYWORDS[name].is_valid(value):
            raise ValueError(f"{where}[{name!r}] is {shown(value)}; expected {KEYWORDS[name].expected}")
    special = [keywords.get("sep", ","), keywords.get("quotechar", '"'), keywords.get("escapechar", "")]
    if len({*special}) < len(special):
        raise ValueError(f"{where}: sep, quotechar and escapechar are {special}; expected different characters")
    return keywords
