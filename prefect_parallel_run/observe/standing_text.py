"""How a run stands, in lines for people. Pure."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator

from prefect_parallel_run.observe.bar import Style, clipped, percent_bar
from prefect_parallel_run.observe.logs import neutral
from prefect_parallel_run.observe.progress import done_percent, failed_words
from prefect_parallel_run.observe.standing import NodeShare, Standing
from prefect_parallel_run.units import MINI_BATCHES, TRIES, count, format_seconds

_PLAIN = Style(colours=False, unicode=False)
_MOST_NODES = 6
_BAR = 40  #: columns
_NEXT = {
    "failed": ("failed", "resume"),
    "interrupted": ("resume",),
    "cancelled": ("resume",),
}


def standing_lines(standing: Standing, now: float, width: int | None = None, style: Style = _PLAIN) -> list[str]:
    """Return the lines; each *width* columns wide at most where one is given.

    Args:
        standing: To be told.
        now: Unix time, s.
        width: Columns; None: as long as they are.
        style: What the terminal can show; a bar is drawn only with a width.
    """
    lines = [line for line in _lines(standing, now) if line]
    if width is None:
        return lines
    lines = [clipped(line, width) for line in lines]
    if not standing.tally.is_growing:
        percent = done_percent(standing.tally)
        lines.insert(1, f"  {percent_bar(percent, min(_BAR, max(width - 10, 1)), style)} {int(percent)} %")
    return lines


def standing_line(standing: Standing) -> str:
    """Return the most important of it as one line."""
    tally = standing.tally
    words = f"{standing.run}: {_state(standing)}, {tally.finished} of {tally.planned} mini-batches"
    words += " so far" if tally.is_growing else f" ({done_percent(tally):.0f} %)"
    if tally.failed or tally.failed_items:
        words += f", {failed_words(tally)}"
    return words + _pace(standing)


def _lines(standing: Standing, now: float) -> Iterator[str]:
    tally = standing.tally
    yield f"{standing.run}: {_state(standing)}"
    for name in ("mini_batches", "items"):
        numbers = ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in tally.by_outcome()[name].items())
        yield f"  {name.replace('_', '-')}: {numbers}{', the input is still being listed' if tally.is_growing else ''}"
    yield f"  between two tries: {tally.waiting}, rows: {tally.rows}, driven {count(standing.drives, 'time')}"
    yield f"  {_times(standing, now)}{_pace(standing)}"
    if standing.nodes:
        yield f"  {_nodes(standing.nodes, now, is_driven=standing.driver is not None)}"
    for cause in standing.causes:
        first_line = neutral(cause.error).strip().partition("\n")[0]
        words = f"{neutral(cause.error_type)}: {first_line} ({cause.outcome}, first in mini-batch {cause.first_mini_batch})"
        yield f"  {count(cause.tries, *TRIES)} of {count(cause.mini_batches, *MINI_BATCHES)}: {words}"
    for command in _next(standing):
        yield f"  next: prefect-parallel-run {command} {shlex.quote(standing.run_directory)}"


def _next(standing: Standing) -> tuple[str, ...]:
    """Return the commands that help; none where all succeeded and the rows do not fit together: resume would keep them."""
    tally = standing.tally
    if standing.status == "failed" and tally.finished == tally.planned and not tally.failed_items:
        return ()
    return _NEXT.get(standing.status, ())


def _state(standing: Standing) -> str:
    if standing.driver is not None:
        return f"{standing.status} (process {standing.driver['pid']} on {standing.driver['host']})"
    reason = neutral(standing.reason) if standing.status != "cancelled" else ""  # there it is only the signal's name
    return f"{standing.status} ({reason})" if reason else standing.status


def _times(standing: Standing, now: float) -> str:
    if standing.began is None or standing.last is None:
        return "nothing has been tried yet"
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(standing.began))
    if standing.driver is not None:
        return f"first try {began}, newest result {format_seconds(max(now - standing.last, 0.0))} ago"
    return f"first try {began}, last result {format_seconds(standing.last - standing.began)} later"


def _pace(standing: Standing) -> str:
    if standing.rate is None:
        return ""
    words = f", {standing.rate:.1f} mini-batches/s of late"
    remaining = standing.remaining_seconds
    return words if remaining is None else f"{words}, {format_seconds(remaining)} to go"


def _nodes(nodes: tuple[NodeShare, ...], now: float, *, is_driven: bool) -> str:
    told = [
        f"{neutral(share.node)} {share.succeeded}"
        + (f" ({format_seconds(max(now - share.last, 0.0))} ago)" if is_driven else "")
        for share in nodes[:_MOST_NODES]
    ]
    more = f", and {len(nodes) - _MOST_NODES} more" if len(nodes) > _MOST_NODES else ""
    return f"succeeded on {', '.join(told)}{more}"
