"""The parts of a result folder: their names, sizes and checksums, and the object that lists them in a store. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

#: Object in a result folder of a store that lists its parts. Readers of tables skip names that begin with an underscore.
MANIFEST = "_parallel_run_manifest.json"
_DIGITS = 5  #: at least, in the name of a part
_PART = re.compile(rf"part-\d{{{_DIGITS},}}(-[0-9a-f]{{6}})?\.(txt|csv|jsonl|parquet|orc)")


class ResultPart(NamedTuple):
    """One file of a result folder."""

    name: str
    rows: int
    bytes: int
    sha256: str
    version: str = ""  #: of the object in a store


def part_name(number: int, count: int, suffix: str, token: str = "") -> str:
    """Return the name of a part; in the order of their names, the *count* parts have the order of their numbers.

    >>> part_name(7, 12, ".csv"), part_name(7, 1_000_000, ".csv", "80d950")
    ('part-00007.csv', 'part-000007-80d950.csv')
    """
    digits = max(_DIGITS, len(str(count - 1)))
    return f"part-{number:0{digits}d}{token and '-'}{token}{suffix}"


def is_part_name(name: str) -> bool:
    """True for a name that ``part_name`` returns, or the name of the manifest.

    >>> [is_part_name(name) for name in ("part-00007.csv", "part-00007-80d950.csv", "part-7.csv", "data.csv")]
    [True, True, False, False]
    """
    return name == MANIFEST or _PART.fullmatch(name) is not None


def combined_sha256(parts: Iterable[ResultPart]) -> str:
    """Return one checksum for all parts: the SHA-256 of what ``sha256sum part-*`` prints."""
    return hashlib.sha256("".join(f"{part.sha256}  {part.name}\n" for part in parts).encode()).hexdigest()


def as_plain(parts: Iterable[ResultPart]) -> list[dict[str, Any]]:
    """Return the entries of a manifest in the form of receipt.json."""
    return [{key: value for key, value in part._asdict().items() if key != "version" or value} for part in parts]


def parts_in(entries: Iterable[Mapping[str, Any]]) -> tuple[ResultPart, ...]:
    """Return the parts that ``as_plain`` has described."""
    return tuple(ResultPart(**entry) for entry in entries)


def encode(parts: Iterable[ResultPart]) -> bytes:
    """Return the content of the manifest object."""
    return json.dumps({"parts": as_plain(parts)}, indent=2).encode()


def decode(data: bytes) -> tuple[ResultPart, ...]:
    """Return the parts in a manifest object; raises ValueError, LookupError or TypeError for other content."""
    return parts_in(json.loads(data)["parts"])
