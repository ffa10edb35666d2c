r"""partition_format: what a file's path says about it, such as ``{user}/{season}/{date:yyyy/MM/dd}/*.wav``. Pure.

``{key}`` stands for one path segment or a part of one, ``{key:yyyy/MM/dd/HH/mm/ss}`` for a date (from the year on, as far as
wanted, with any text between), ``*`` for anything within a segment. ``{{``, ``}}`` and a backslash in front of any character
stand for the character itself. The format is compared with the end of the path.
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
        self._dates: dict[str, list[str]] = {}  # parts of each date key, in the order they stand
        pattern = "".join(self._compile(text))
        if not self.keys:
            raise ValueError(f"partition_format is {text!r}; accepted: a path with at least one {{key}}")
        self._pattern = re.compile(pattern if text.startswith("/") else f"(?:^|/){pattern}", re.DOTALL)

    def values(self, path: str) -> dict[str, str] | None:
        """Return the value of every key, dates in ISO 8601; None when *path* does not end like that."""
        for match in self._pattern.finditer(path):
            found = self._pattern.match(path, match.start())
            if found is not None and found.end() == len(path):
                return self._read(found)
        return None

    def _read(self, found: re.Match[str]) -> dict[str, str] | None:
        values = {}
        for number, key in enumerate(self.keys):
            if key in self._dates:
                day = _date({part: found[f"k{number}_{part}"] for part in self._dates[key]})
                if day is None:
                    return None
                values[key] = day
            else:
                values[key] = found[f"k{number}"]
        return values

    def _compile(self, text: str) -> Iterator[str]:
        for token in _TOKEN.finditer(text):
            kind = token.lastgroup
            if token["key"] is not None:
                yield self._key(token["key"], token["date"])
            elif kind == "star":
                yield "[^/]*"
            elif token["other"] in ("{", "}"):
                raise ValueError(f"partition_format is {text!r}: a single {token['other']!r}; double it to mean the character")
            else:
                plain = token["escaped"] or ("{" if token["open"] else "}" if token["close"] else token["other"])
                yield re.escape(plain)
        yield r"\Z"

    def _key(self, key: str, date: str | None) -> str:
        if not _KEY.fullmatch(key) or key in self.keys:
            raise ValueError(f"partition_format is {self.text!r}: {key!r} is no key, or stands there twice")
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
            raise ValueError(f"partition_format is {self.text!r}: a date is made of yyyy, MM, dd, HH, mm, ss, from the year on")
        self._dates[key] = parts
        return "".join(pattern)


def _date(parts: dict[str, str]) -> str | None:
    """Return a date in ISO 8601, as precise as it was given; None when there is no such date."""
    numbers = [int(parts[part]) for part in _DATE_ORDER if part in parts]
    try:
        full = datetime(*numbers, *(1, 1, 1)[len(numbers) :], tzinfo=timezone.utc)  # type: ignore[arg-type, misc]  # year, month, day and on
    except ValueError:
        return None
    formats = ("%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")
    return full.strftime(formats[len(numbers) - 1])
