r"""partition_format: extracts keys from a file's path, such as ``{user}/{season}/{date:yyyy/MM/dd}/*.wav``. Pure.

``{key}`` matches one path segment or a part of one, ``{key:yyyy/MM/dd/HH/mm/ss}`` a date (from the year to any precision, with
any text between), ``*`` anything within a segment. ``{{``, ``}}`` and a backslash in front of any character match the character
itself. The format is matched against the end of the path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone

_TOKEN = re.compile(
    r"\\(?P<escaped>.)|(?P<open>\{\{)|(?P<close>\}\})|\{(?P<key>[^{}:]*)(:(?P<date>[^{}]*))?\}|(?P<star>\*)|(?P<other>.)"
)
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DATE_PART = re.compile(r"(?P<part>yyyy|MM|dd|HH|mm|ss)|(?P<escaped>.)")
_DATE_ORDER = ("yyyy", "MM", "dd", "HH", "mm", "ss")
_DIGITS = {"yyyy": 4}


class PartitionFormat:
    """A compiled partition_format.

    >>> PartitionFormat("{user}/{day:yyyy/MM/dd}/*.wav").values("/data/ann/2024/01/31/x.wav")
    {'user': 'ann', 'day': '2024-01-31'}
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.keys: list[str] = []
        self._dates: dict[str, list[str]] = {}  # parts of each date key, in order
        pattern = "".join(self._compile(text))
        if not self.keys:
            raise ValueError(f"partition_format: expected a path with at least one {{key}}, got {text!r}")
        self._pattern = re.compile(pattern if text.startswith("/") else f"(?:^|/){pattern}", re.DOTALL)

    def values(self, path: str) -> dict[str, str] | None:
        """Return the value of every key, dates in ISO 8601; None when the end of *path* does not match."""
        for candidate in self._pattern.finditer(path):
            match = self._pattern.match(path, candidate.start())
            if match is not None and match.end() == len(path):
                return self._read(match)
        return None

    def _read(self, match: re.Match[str]) -> dict[str, str] | None:
        values = {}
        for number, key in enumerate(self.keys):
            if key in self._dates:
                date = _date({part: match[f"k{number}_{part}"] for part in self._dates[key]})
                if date is None:
                    return None
                values[key] = date
            else:
                values[key] = match[f"k{number}"]
        return values

    def _compile(self, text: str) -> Iterator[str]:
        for token in _TOKEN.finditer(text):
            kind = token.lastgroup
            if token["key"] is not None:
                yield self._key(token["key"], token["date"])
            elif kind == "star":
                yield "[^/]*"
            elif token["other"] in ("{", "}"):
                raise ValueError(
                    f"partition_format: unmatched {token['other']!r} in {text!r}; double it to match the character"
                )
            else:
                character = token["escaped"] or ("{" if token["open"] else "}" if token["close"] else token["other"])
                yield re.escape(character)
        yield r"\Z"

    def _key(self, key: str, date: str | None) -> str:
        if not _KEY.fullmatch(key) or key in self.keys:
            raise ValueError(f"partition_format: {key!r} in {self.text!r} is not a valid key, or is repeated")
        number = len(self.keys)
        self.keys.append(key)
        if date is None:
            return f"(?P<k{number}>[^/]+?)"
        parts: list[str] = []
        pattern = []
        for token in _DATE_PART.finditer(date):
            part = token["part"]
            if part is None:
                pattern.append(re.escape(token["escaped"]))
                continue
            parts.append(part)
            pattern.append(f"(?P<k{number}_{part}>[0-9]{{{_DIGITS.get(part, 2)}}})")
        if tuple(sorted(parts, key=_DATE_ORDER.index)) != _DATE_ORDER[: len(parts)] or not parts:
            raise ValueError(f"partition_format: a date needs yyyy, MM, dd, HH, mm, ss in this order, got {self.text!r}")
        self._dates[key] = parts
        return "".join(pattern)


def _date(parts: dict[str, str]) -> str | None:
    """Return a date in ISO 8601 with the precision of *parts*; None when the date does not exist."""
    numbers = [int(parts[part]) for part in _DATE_ORDER if part in parts]
    try:
        full = datetime(*numbers, *(1, 1, 1)[len(numbers) :], tzinfo=timezone.utc)  # type: ignore[arg-type, misc]  # year, month, day and so on
    except ValueError:
        return None
    formats = ("%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")
    return full.strftime(formats[len(numbers) - 1])
