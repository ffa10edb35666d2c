"""The status of a run as lines for people. Pure."""

from __future__ import annotations

import shlex
import textwrap
import time
from collections.abc import Iterator

from prefect_parallel_run._units import FAILED_ATTEMPTS, MINI_BATCHES, count, format_seconds
from prefect_parallel_run.errors import RowsDifferError
from prefect_parallel_run.monitoring.logs import escape_control_chars
from prefect_parallel_run.monitoring.progress import describe_failures, done_percent, format_percent
from prefect_parallel_run.monitoring.status import NodeProgress, RunStatus
from prefect_parallel_run.monitoring.terminal import clipped, percent_bar

_MAX_NODES = 6
_BAR = 40  #: columns
_MIN_TEXT = 10  #: columns
_MAX_ROWS = 2  #: of a wrapped line


def status_lines(status: RunStatus, now: float, width: int | None = None, *, ascii_only: bool = False) -> list[str]:
    """Return the status as lines, each at most *width* columns wide.

    Args:
        status: Status to show.
        now: Unix time, s.
        width: Columns; None for no limit and no bar.
        ascii_only: The terminal shows no other characters.
    """
    has_bar = width is not None and not status.tally.is_growing
    lines = [line for line in _lines(status, now, has_bar=has_bar) if line]
    if width is None:
        return lines
    rows = [row for line in lines for row in wrapped(line, width)]
    if has_bar:
        rows.insert(len(wrapped(lines[0], width)), _bar_line(status, width, ascii_only=ascii_only))
    return rows


def _bar_line(status: RunStatus, width: int, *, ascii_only: bool) -> str:
    """Return the bar, the percentage and the forecast."""
    text = "  ".join(filter(None, (format_percent(status.tally), str(status.forecast))))
    text = clipped(text, width - _MIN_TEXT)
    bar = percent_bar(done_percent(status.tally), max(min(_BAR, width - len(text) - 3), 1), ascii_only=ascii_only)
    return f"  {bar} {text}"


def wrapped(line: str, width: int) -> list[str]:
    """Return *line* wrapped into at most two rows of *width* columns; an ellipsis marks a cut.

    >>> wrapped("  one two three four", 11)
    ['  one two', '    three …']
    """
    indent = " " * (len(line) - len(line.lstrip()))
    if len(line) <= width or width <= len(indent) + _MIN_TEXT // 2:
        return [clipped(line, width)]
    wrapper = textwrap.TextWrapper(
        width,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        max_lines=_MAX_ROWS,
        placeholder=" …",
        break_on_hyphens=False,
    )
    return wrapper.wrap(line.strip())


def next_after_limit(limit: str) -> list[tuple[str, str]]:
    """Return options of ``resume``, with their effects, for a run that exceeded *limit*, a configuration field."""
    isolate = [("--isolate-failed-items", "count only the items that fail by themselves")] if limit == "error_threshold" else []
    return [
        (f"--{limit.replace('_', '-')} N", "resume with another limit"),
        *isolate,
        ("--retry-failed", "retry failed mini-batches with a full set of attempts"),
    ]


def status_summary(status: RunStatus) -> str:
    """Return state, counts, rate and forecast as one line."""
    tally = status.tally
    line = f"{status.run}: {_state(status)}, {tally.finished} of {tally.planned} mini-batches"
    line += " so far" if tally.is_growing else f" ({format_percent(tally)})"
    if tally.failed or tally.failed_items:
        line += f", {describe_failures(tally)}"
    return line + _rate(status) + _forecast(status)


def _lines(status: RunStatus, now: float, *, has_bar: bool) -> Iterator[str]:
    tally = status.tally
    yield f"{status.run}: {_state(status)}"
    for name in ("mini_batches", "items"):
        numbers = ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in tally.by_outcome()[name].items())
        yield f"  {name.replace('_', '-')}: {numbers}{', the input is still being listed' if tally.is_growing else ''}"
    yield f"  awaiting retry: {tally.waiting}, rows: {tally.rows}, executions: {status.executions}"
    yield f"  {_times(status, now)}{_rate(status)}{'' if has_bar else _forecast(status)}"
    if status.nodes:
        yield f"  {_nodes(status.nodes, now, is_active=status.owner is not None)}"
    for cause in status.causes:
        first_line = escape_control_chars(cause.error).strip().partition("\n")[0]
        example = f"({cause.outcome}, first in mini-batch {cause.first_mini_batch})"
        error = f"{escape_control_chars(cause.error_type)}: {first_line} {example}"
        yield f"  {count(cause.tries, *FAILED_ATTEMPTS)} of {count(cause.mini_batches, *MINI_BATCHES)}: {error}"
    yield from (f"  next: prefect-parallel-run {command}" for command in _next_commands(status))


def _next_commands(status: RunStatus) -> Iterator[str]:
    """Yield commands to try next; none when columns differ, because resume would keep those rows."""
    if status.ended_by == RowsDifferError.__name__:
        return
    run_directory = shlex.quote(status.run_directory)
    if status.status == "failed":
        yield f"failed {run_directory}"
    if status.exceeded:
        yield from (f"resume {run_directory} {option}" for option, _ in next_after_limit(status.exceeded))
    elif status.status in ("failed", "interrupted", "cancelled"):
        yield f"resume {run_directory}"


def _state(status: RunStatus) -> str:
    if status.owner is not None:
        return f"{status.status} (process {status.owner['pid']} on {status.owner['host']})"
    if status.status == "cancelled":  # the reason is only the name of the signal
        return status.status
    reason = escape_control_chars(status.reason)
    return f"{status.status} ({reason})" if reason else status.status


def _times(status: RunStatus, now: float) -> str:
    if status.began is None or status.last is None:
        return "no attempt has ended yet"
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.began))
    if status.owner is not None:
        return f"first attempt {began}, latest result {format_seconds(max(now - status.last, 0.0))} ago"
    return f"first attempt {began}, last result {format_seconds(status.last - status.began)} later"


def _rate(status: RunStatus) -> str:
    return "" if status.rate is None else f", {status.rate:.1f} mini-batches/s recently"


def _forecast(status: RunStatus) -> str:
    """Return the forecast, unless the run is paused: the state already says that."""
    forecast = status.forecast
    return f", {forecast}" if str(forecast) and not forecast.is_paused else ""


def _nodes(nodes: tuple[NodeProgress, ...], now: float, *, is_active: bool) -> str:
    shares = [
        f"{escape_control_chars(share.node)} {share.succeeded}"
        + (f" ({format_seconds(max(now - share.last, 0.0))} ago)" if is_active else "")
        for share in nodes[:_MAX_NODES]
    ]
    suffix = f", and {len(nodes) - _MAX_NODES} more" if len(nodes) > _MAX_NODES else ""
    return f"succeeded on {', '.join(shares)}{suffix}"
