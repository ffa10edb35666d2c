"""The location of the items of a mini-batch as text, from the plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect_parallel_run.child.table_formats import groups_of


def location_lines(work: Mapping[str, Any], piece: tuple[int, int] | None = None, most: int = 3) -> list[str]:
    """Return the location of the items of *work*, or of those in *piece*: at most *most* lines and a count of the rest.

    >>> location_lines({"kind": "files", "input": "a", "root": "/data/", "names": ["x.jpg", "y.jpg"]})
    ['/data/x.jpg', '/data/y.jpg']
    >>> location_lines({"kind": "delimited", "input": "a", "path": "/d.csv", "first": 200, "rows": 100, "start": 9, "stop": 99})
    ['/d.csv, records 200 to 299']
    """
    lines = [f"{key} = {value}" for key, value in (work.get("partition_key_value") or {}).items()]
    if work["kind"] == "files":
        names = work["names"] if piece is None else work["names"][slice(*piece)]
        return lines + _shortened([f"{work['root']}{name}" for name in names], "file", most)
    if work["kind"] == "tables":
        return lines + _shortened([_table(table, None) for table in work["tables"]], "location", most) + _items(piece)
    return [*lines, _table(work, piece)]


def _table(work: Mapping[str, Any], piece: tuple[int, int] | None) -> str:
    """Return the location of the rows of one table."""
    start, stop = piece or (0, int(work["rows"]))
    if "first" in work:
        return f"{work['path']}, {_range('record', work['first'] + start, work['first'] + stop)}"
    groups, group = groups_of(work)
    if work.get(groups):
        rows = _range("row", work["start"] + start, work["start"] + stop)
        return f"{work['path']}, {rows} counted from {group} {min(work[groups])}"
    return f"{work['path']}, {stop - start:,} rows"


def _items(piece: tuple[int, int] | None) -> list[str]:
    return [] if piece is None else [f"only {_range('item', *piece)} of the mini-batch"]


def _range(word: str, start: int, stop: int) -> str:
    return f"{word} {start}" if stop - start == 1 else f"{word}s {start} to {stop - 1}"


def _shortened(lines: list[str], word: str, most: int) -> list[str]:
    more = len(lines) - most
    return lines if more <= 0 else [*lines[:most], f"and {more:,} more {word}{'s' if more > 1 else ''}"]
