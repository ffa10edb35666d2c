"""Formats numbers, durations, sizes and times of a report. Pure."""

from __future__ import annotations

import math
from datetime import datetime, timezone

from prefect_parallel_run._units import format_seconds, format_size
from prefect_parallel_run.models import Outcome

STATUS = {  #: symbol and label of a status, so that nothing depends on color
    "succeeded": ("✓", "Succeeded"),
    "failed": ("✕", "Failed"),
    "cancelled": ("■", "Cancelled"),
    "interrupted": ("!", "Interrupted"),
    "running": ("▶", "Still running"),
    "paused": ("‖", "Paused"),
    "planned": ("…", "Not started"),
}
OUTCOMES: dict[str, str] = {
    Outcome.SUCCEEDED: "succeeded",
    Outcome.RAISED: "raised an exception",
    Outcome.WRONG_TYPE: "returned a wrong type",
    Outcome.INPUT_CHANGED: "its input changed",
    Outcome.TIMED_OUT: "timed out",
    Outcome.DIED: "its process died",
    Outcome.LOST: "lost with its node",
    Outcome.OUT_OF_MEMORY: "out of memory",
    Outcome.UNWRITABLE: "its rows could not be written",
    "start_failed": "a process could not start",
    "too_few_rows": "returned too few rows",
}


def outcome(name: str) -> str:
    """Return an outcome as readable text."""
    return OUTCOMES.get(name, name)


def duration(seconds: float) -> str:
    """Return a duration in the unit that fits its size.

    >>> duration(0), duration(0.000042), duration(0.25), duration(2.5), duration(125), duration(200000)
    ('0', '42 µs', '250 ms', '2.50 s', '2 min 5 s', '2 d 7 h')
    """
    if seconds == 0:
        return "0"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 172_800:
        return format_seconds(seconds)
    return f"{int(seconds // 86_400)} d {int(seconds % 86_400 // 3600)} h"


def rate(per_second: float) -> str:
    """Return a rate per second, or per minute if it is small.

    >>> rate(1234.5), rate(2.345), rate(0.05)
    ('1,234/s', '2.35/s', '3.00/min')
    """
    if per_second >= 100:
        return f"{per_second:,.0f}/s"
    if per_second >= 1:
        return f"{per_second:.3g}/s"
    return f"{per_second * 60:.3g}/min" if per_second * 60 < 1 else f"{per_second * 60:.2f}/min"


def per_second(value: float) -> str:
    """Return a rate per second as the label of an axis."""
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def share_label(value: float) -> str:
    """Return a percentage as the label of an axis."""
    return f"{value:.0f} %"


def moment(time: float) -> str:
    """Return a Unix time as text.

    >>> moment(0)
    '1970-01-01 00:00:00 UTC'
    """
    return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def tick(seconds: float) -> str:
    """Return a round duration as the label of an axis.

    >>> tick(5), tick(0.2), tick(7200), tick(600)
    ('5 s', '200 ms', '2 h', '10 min')
    """
    label = f"{seconds:g} s" if 1 <= seconds < 60 else duration(seconds)
    return label.replace(" 0 min", "").replace(" 0 s", "").replace(" 0 h", "")


def size(number: float) -> str:
    """Return a size as the label of an axis; units are powers of 1024.

    >>> size(0), size(3 * 2**30), size(1536 * 2**20)
    ('0', '3 GB', '1.5 GB')
    """
    label = format_size(number)
    return "0" if number == 0 else label.replace(".0 ", " ")


def ticks(most: float, number: int = 5, base: int = 10) -> list[float]:
    """Return about *number* round values from 0 to *most*; in base 2 they are powers of two, as sizes need.

    >>> ticks(9.2), ticks(0), ticks(3000, 3, base=2)
    ([0.0, 2.0, 4.0, 6.0, 8.0], [0.0], [0.0, 1024.0, 2048.0])
    """
    if most <= 0:
        return [0.0]
    step = nice(most / number) if base == 10 else 2.0 ** math.ceil(math.log2(most / number))
    return [index * step for index in range(int(most / step) + 1)]


def time_ticks(seconds: float, number: int = 6) -> list[float]:
    """Return about *number* round times from 0 to *seconds*.

    >>> time_ticks(100)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    steps = [s * f for s, fs in ((60, (1, 2, 5, 10, 15, 30)), (3600, (1, 2, 3, 6, 12)), (86_400, (1, 2, 7, 14))) for f in fs]
    interval = seconds / number
    step = nice(interval) if interval < 30 else next((step for step in steps if step >= interval), nice(interval))
    return [index * step for index in range(int(seconds / step + 1e-9) + 1)]


def nice(value: float) -> float:
    """Return the next round number: 1, 2 or 5 times a power of ten.

    >>> nice(0.3), nice(7)
    (0.5, 10.0)
    """
    power = 10.0 ** math.floor(math.log10(value))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * (1 - 1e-9)))
