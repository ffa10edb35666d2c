"""The location of the items of a mini-batch as text: their files, or their records or rows in a table. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prefect_parallel_run._units import count
from prefect_parallel_run.child.table_formats import groups_of
from prefect_parallel_run.monitoring.logs import escape_control_chars


def location_of(work: Mapping[str, Any], most: int = 1) -> str:
    """Return the location of the items of *work* as one line: at most *most* files or tables, and the number of the others.

    >>> location_of({"kind": "files", "root": "/data/", "names": ["a.png", "b.png"]})
    '/data/a.png and 1 more'
    >>> location_of({"kind": "parquet", "path": "/t.parquet", "row_groups": [2, 3], "start": 0, "stop": 10, "rows": 10})
    '/t.parquet, rows 0 to 9 counted from row group 2'
    """
    places, _ = _places(work)
    more = f" and {len(places) - most:,} more" if len(places) > most else ""
    keys = ", ".join(_keys(work))
    text = "; ".join(places[:most]) + more + "".join(f"; {note}" for note in _selection(work))
    return escape_control_chars(f"{keys}: {text}" if keys else text)


def location_lines(work: Mapping[str, Any], most: int = 3) -> list[str]:
    """Return the location of the items of *work*: at most *most* files or tables, and a line with the number of the others.

    >>> location_lines({"kind": "files", "root": "/data/", "names": ["x.jpg", "y.jpg"]})
    ['/data/x.jpg', '/data/y.jpg']
    >>> location_lines({"kind": "delimited", "path": "/d.csv", "first": 200, "rows": 100})
    ['/d.csv, records 200 to 299']
    """
    places, name = _places(work)
    more = [f"and {count(len(places) - most, f'more {name}')}"] if len(places) > most else []
    return [*_keys(work), *places[:most], *more, *_selection(work)]


def _keys(work: Mapping[str, Any]) -> Iterator[str]:
    return (f"{key} = {value}" for key, value in (work.get("partition_key_value") or {}).items())


def _places(work: Mapping[str, Any]) -> tuple[list[str], str]:
    """Return the location of every file or table, and the word for one of these."""
    if work["kind"] == "files":
        return [f"{work['root']}{name}" for name in work["names"]], "file"
    return [_table(table) for table in work.get("tables", [work])], "location"


def _table(work: Mapping[str, Any]) -> str:
    """Return the location of the rows of one table."""
    if "first" in work:
        return f"{work['path']}, {_range('record', work['first'], work['first'] + work['rows'])}"
    groups, group = groups_of(work)
    if work.get(groups):
        return f"{work['path']}, {_range('row', work['start'], work['stop'])} counted from {group} {min(work[groups])}"
    return f"{work['path']}, {count(work['rows'], 'row')}"


def _selection(work: Mapping[str, Any]) -> list[str]:
    """Return the range of items, if a mini-batch of several tables is only partly selected."""
    return [f"only {_range('item', *work['items'])} of the mini-batch"] if "tables" in work and "items" in work else []


def _range(word: str, start: int, stop: int) -> str:
    return f"{word} {start:,}" if stop - start == 1 else f"{word}s {start:,} to {stop - 1:,}"
