"""Tables of a report; on a narrow screen each row becomes a card whose cells carry the column names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prefect_parallel_run.monitoring.report.html import Html, el, join

Cell = object


def listing(caption: str, heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, numbers: Sequence[str] = ()) -> Html:
    """Return a table.

    Args:
        caption: Title of the table.
        heads: Column names.
        rows: Cells, row by row.
        numbers: Names of the columns to align as numbers.
    """
    kinds = ["number" if name in numbers else None for name in heads]
    head = el("tr", *(el("th", name, scope="col", class_=kind) for name, kind in zip(heads, kinds, strict=True)))
    body = [
        el("tr", *(el("td", cell, class_=kind, data_name=name) for cell, name, kind in zip(row, heads, kinds, strict=True)))
        for row in rows
    ]
    return el("table", el("caption", caption), el("thead", head), el("tbody", *body), class_="list")


def pairs(caption: str, rows: Iterable[tuple[str, object]]) -> Html | None:
    """Return a table of names and values; None without rows."""
    body = [el("tr", el("th", el("code", name), scope="row"), el("td", el("code", value))) for name, value in rows]
    return el("table", el("caption", caption), el("tbody", *body), class_="pairs") if body else None


def code_lines(lines: Sequence[str]) -> Html:
    """Return *lines* as code, one per line."""
    return join(*(join(el("code", line), el("br") if number < len(lines) - 1 else None) for number, line in enumerate(lines)))
