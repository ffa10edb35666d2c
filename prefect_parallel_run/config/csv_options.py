"""Keywords of pandas.DataFrame.to_csv for the rows of a result: which there are, and which values each takes. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import ValidationInfo

from prefect_parallel_run.config.quoting import is_int, shown


class _Keyword(NamedTuple):
    is_right: Callable[[Any], bool]
    accepted: str


def _is_character(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 1 and value not in "\r\n\0"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_float_format(value: Any) -> bool:
    try:
        return isinstance(value, str) and isinstance(value % 1.5, str) and "%" in value
    except (TypeError, ValueError):
        return False


def _is_encoding(value: Any) -> bool:
    """True for an encoding in which two texts, one behind the other, are those of their sum: it writes no mark before each."""
    try:
        return isinstance(value, str) and "a\n1".encode(value) == "a\n".encode(value) + "1".encode(value)
    except (LookupError, UnicodeError, TypeError):
        return False


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(text, str) for text in value)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


_CHARACTER = "one character that ends no line"
_TRUTH = "true or false"
_TEXTS = "a list of texts"
KEYWORDS: dict[str, _Keyword] = {
    "sep": _Keyword(_is_character, _CHARACTER),
    "na_rep": _Keyword(_is_text, "a text"),
    "float_format": _Keyword(_is_float_format, "a format for one number, such as '%.3f'"),
    "date_format": _Keyword(_is_text, "a format for dates, such as '%Y-%m-%d'"),
    "decimal": _Keyword(_is_character, _CHARACTER),
    "columns": _Keyword(_are_texts, _TEXTS),
    "header": _Keyword(_are_texts, f"{_TEXTS}, the names in the header line; whether there is one append_row_header says"),
    "index": _Keyword(_is_truth, _TRUTH),
    "index_label": _Keyword(_is_text, "a text"),
    "quoting": _Keyword(lambda value: is_int(value) and 0 <= value <= 3, "0 (minimal), 1 (all), 2 (not numbers) or 3 (none)"),
    "quotechar": _Keyword(_is_character, _CHARACTER),
    "doublequote": _Keyword(_is_truth, _TRUTH),
    "escapechar": _Keyword(_is_character, _CHARACTER),
    "encoding": _Keyword(_is_encoding, "an encoding of Python's that begins with no byte order mark"),
}


def csv_options(value: Any, info: ValidationInfo) -> Any:
    """Return keywords of to_csv; an empty mapping is none."""
    if value is None or value == {}:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{info.field_name} is {shown(value)}; accepted: a mapping of keywords of to_csv, or None")  # noqa: TRY004  pydantic's
    return checked(value, str(info.field_name))


def checked(keywords: dict[Any, Any], where: str) -> dict[str, Any]:
    """Return *keywords*; raises ValueError, with *where* they stand, for one that is unknown or has a wrong value."""
    for name, value in keywords.items():
        if name not in KEYWORDS:
            raise ValueError(f"{where} has {shown(name)}; accepted: {', '.join(KEYWORDS)}")
        if not KEYWORDS[name].is_right(value):
            raise ValueError(f"{where}[{name!r}] is {shown(value)}; accepted: {KEYWORDS[name].accepted}")
    one_each = [keywords.get("sep", ","), keywords.get("quotechar", '"'), keywords.get("escapechar", "")]
    if len({*one_each}) < len(one_each):
        raise ValueError(f"{where}: sep, quotechar and escapechar are {one_each}; accepted: different characters")
    return keywords
