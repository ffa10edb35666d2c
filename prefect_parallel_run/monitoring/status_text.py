"""How a run stands, in lines for people. Pure."""

from __future__ import annotations

import shlex
import textwrap
import time
from collections.abc import Iterator

from prefect_parallel_run.errors import RowsDifferError
from prefect_parallel_run.monitoring.bar import Style, clipped, percent_bar
from prefect_parallel_run.monitoring.logs import escape_control_chars
from prefect_parallel_run.monitoring.progress import done_percent, failed_words, percent_words
from prefect_parallel_run.monitoring.status import NodeShare, RunStatus
from prefect_parallel_run.units import MINI_BATCHES, TRIES, count, format_seconds

_PLAIN = Style(colours=False, unicode=False)
_MOST_NODES = 6
_BAR = 40  #: columns
_NARROWEST = 10  #: the same
_MOST_ROWS = 2  #: that a line may take where it is too long


def standing_lines(standing: RunStatus, now: float, width: int | None = None, style: Style = _PLAIN) -> list[str]:
    """Return the lines; each *width* columns wide at most where one is given.

    Args:
        standing: To be told.
        now: Unix time, s.
        width: Columns; None: as long as they are.
        style: What the terminal can show; a bar is drawn only with a width.
    """
    has_bar = width is not None and not standing.tally.is_growing
    lines = [line for line in _lines(standing, now, has_bar=has_bar) if line]
    if width is None:
        return lines
    rows = [row for line in lines for row in wrapped(line, width)]
    if has_bar:
        rows.insert(len(wrapped(lines[0], width)), _bar_line(standing, width, style))
    return rows


def _bar_line(standing: RunStatus, width: int, style: Style) -> str:
    """Return the bar, how much is done, and what is to come."""
    words = "  ".join(filter(None, (percent_words(standing.tally), str(standing.outlook))))
    words = clipped(words, width - _NARROWEST)
    bar = percent_bar(done_percent(standing.tally), max(min(_BAR, width - len(words) - 3), 1), style)
    return f"  {bar} {words}"


def wrapped(line: str, width: int) -> list[str]:
    """Return a line in rows of *width* columns; two of them at most, and the second says when it goes on.

    >>> wrapped("  one two three four", 11)
    ['  one two', '    three …']
    """
    indent = " " * (len(line) - len(line.lstrip()))
    if len(line) <= width or width <= len(indent) + _NARROWEST // 2:
        return [clipped(line, width)]
    wrapper = textwrap.TextWrapper(
        width,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        max_lines=_MOST_ROWS,
        placeholder=" …",
        break_on_hyphens=False,
    )
    return wrapper.wrap(line.strip())


def next_after_limit(limit: str) -> list[tuple[str, str]]:
    """Return options of ``resume`` for a run that has exceeded *limit*, a configuration field, and what they do."""
    isolate = [("--isolate-failed-items", "count only the items that are guilty")] if limit == "error_threshold" else []
    return [
        (f"--{limit.replace('_', '-')} N", "go on with another limit"),
        *isolate,
        ("--retry-failed", "give what failed a fresh set of tries"),
    ]


def standing_line(standing: RunStatus) -> str:
    """Return the most important of it as one line."""
    tally = standing.tally
    words = f"{standing.run}: {_state(standing)}, {tally.finished} of {tally.planned} mini-batches"
    words += " so far" if tally.is_growing else f" ({percent_words(tally)})"
    if tally.failed or tally.failed_items:
        words += f", {failed_words(tally)}"
    return words + _pace(standing) + _to_come(standing)


def _lines(standing: RunStatus, now: float, *, has_bar: bool) -> Iterator[str]:
    tally = standing.tally
    yield f"{standing.run}: {_state(standing)}"
    for name in ("mini_batches", "items"):
        numbers = ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in tally.by_outcome()[name].items())
        yield f"  {name.replace('_', '-')}: {numbers}{', the input is still being listed' if tally.is_growing else ''}"
    yield f"  between two tries: {tally.waiting}, rows: {tally.rows}, driven {count(standing.drives, 'time')}"
    yield f"  {_times(standing, now)}{_pace(standing)}{'' if has_bar else _to_come(standing)}"
    if standing.nodes:
        yield f"  {_nodes(standing.nodes, now, is_driven=standing.driver is not None)}"
    for cause in standing.causes:
        first_line = escape_control_chars(cause.error).strip().partition("\n")[0]
        where = f"({cause.outcome}, first in mini-batch {cause.first_mini_batch})"
        words = f"{escape_control_chars(cause.error_type)}: {first_line} {where}"
        yield f"  {count(cause.tries, *TRIES)} of {count(cause.mini_batches, *MINI_BATCHES)}: {words}"
    yield from (f"  next: prefect-parallel-run {words}" for words in _next(standing))


def _next(standing: RunStatus) -> Iterator[str]:
    """Yield the commands that help; none where the rows do not fit together: resume would keep them."""
    if standing.ended_by == RowsDifferError.__name__:
        return
    place = shlex.quote(standing.run_directory)
    if standing.status == "failed":
        yield f"failed {place}"
    if standing.exceeded:
        yield from (f"resume {place} {option}" for option, _ in next_after_limit(standing.exceeded))
    elif standing.status in ("failed", "interrupted", "cancelled"):
        yield f"resume {place}"


def _state(standing: RunStatus) -> str:
    if standing.driver is not None:
        return f"{standing.status} (process {standing.driver['pid']} on {standing.driver['host']})"
    reason = (
        escape_control_chars(standing.reason) if standing.status != "cancelled" else ""
    )  # there it is only the signal's name
    return f"{standing.status} ({reason})" if reason else standing.status


def _times(standing: RunStatus, now: float) -> str:
    if standing.began is None or standing.last is None:
        return "nothing has been tried yet"
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(standing.began))
    if standing.driver is not None:
        return f"first try {began}, newest result {format_seconds(max(now - standing.last, 0.0))} ago"
    return f"first try {began}, last result {format_seconds(standing.last - standing.began)} later"


def _pace(standing: RunStatus) -> str:
    return "" if standing.rate is None else f", {standing.rate:.1f} mini-batches/s of late"


def _to_come(standing: RunStatus) -> str:
    """Return what is to come; that it is paused is its state."""
    outlook = standing.outlook
    return f", {outlook}" if str(outlook) and not outlook.is_paused else ""


def _nodes(nodes: tuple[NodeShare, ...], now: float, *, is_driven: bool) -> str:
    told = [
        f"{escape_control_chars(share.node)} {share.succeeded}"
        + (f" ({format_seconds(max(now - share.last, 0.0))} ago)" if is_driven else "")
        for share in nodes[:_MOST_NODES]
    ]
    more = f", and {len(nodes) - _MOST_NODES} more" if len(nodes) > _MOST_NODES else ""
    return f"succeeded on {', '.join(told)}{more}"
