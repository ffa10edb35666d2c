"""The charts of a report: tracks along the time axis. Inline SVG that scales to the page without scaling its text.

An <svg> without a viewBox has positions in percent, so that it follows the width of the page; an inner, stretched <svg> holds
the long paths. Colour is never the only distinction: failures are hatched, or hang from the upper edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from prefect_parallel_run.monitoring.report.axis import BINS, Axis, Floats
from prefect_parallel_run.monitoring.report.format import duration, size, tick, ticks, time_ticks
from prefect_parallel_run.monitoring.report.html import Html, el, join

HEIGHT = 96  #: px of a plot
_SCALE = 1000  #: height of the inner drawing
_LABEL_WIDTH = 0.03  #: share of the width for the number of a command
PATTERNS = el(
    "svg",
    el(
        "defs",
        el(
            "pattern",
            el("rect", width=6, height=6, class_="hatch-ground"),
            el("path", d="M-1,1l2,-2M0,6l6,-6M5,7l2,-2", class_="hatch-line"),
            id="hatch",
            width=6,
            height=6,
            patternUnits="userSpaceOnUse",
        ),
        el(
            "pattern",
            el("rect", width=4, height=4, class_="dots-ground"),
            el("circle", cx=1, cy=1, r=0.9, class_="dots-dot"),
            el("circle", cx=3, cy=3, r=0.9, class_="dots-dot"),
            id="dots",
            width=4,
            height=4,
            patternUnits="userSpaceOnUse",
        ),
    ),
    width=0,
    height=0,
    aria_hidden="true",
    class_="patterns",
)


def percent(share: float) -> str:
    """Return a share from 0 to 1 as a CSS percentage.

    >>> percent(0.12345678)
    '12.346%'
    """
    return f"{100 * share:.3f}".rstrip("0").rstrip(".") + "%"


def stretched(*paths: Html, height: int) -> Html:
    """Return a drawing of BINS by *height* units that fills its container."""
    box = f"0 0 {BINS} {height}"
    return el("svg", *paths, viewBox=box, preserveAspectRatio="none", width="100%", height="100%")


def steps(heights: Sequence[int], floor: int) -> str:
    """Return the path of a step chart on *floor*, one height per bin; equal neighbours form one step.

    >>> steps([2, 2, 0], 10)
    'M0,10V8h2V10h1V10z'
    """
    path, position = [f"M0,{floor}"], 0
    while position < len(heights):
        stop = position
        while stop < len(heights) and heights[stop] == heights[position]:
            stop += 1
        path.append(f"V{floor - heights[position]}h{stop - position}")
        position = stop
    return "".join(path) + f"V{floor}z"


def bars_from_above(heights: Sequence[int]) -> str:
    """Return the path of bars that hang from the upper edge; bins of height 0 have none."""
    return "".join(f"M{position},0h1v{height}h-1z" for position, height in enumerate(heights) if height)


def pause_lines(axis: Axis) -> list[Html]:
    """Return a line at each pause that was cut out."""
    positions = [percent(pause.position / axis.seconds) for pause in axis.pauses[:50]]
    return [el("line", x1=position, x2=position, y1=0, y2="100%", class_="pause") for position in positions]


def command_lines(axis: Axis, commands: Sequence[tuple[int, float]]) -> list[Html]:
    """Return a line at each applied control command; *commands* are numbers and positions."""
    positions = [percent(position / axis.seconds) for _, position in commands[:50]]
    return [el("line", x1=position, x2=position, y1=0, y2="100%", class_="ordered") for position in positions]


def _command_numbers(axis: Axis, commands: Sequence[tuple[int, float]], y: int) -> list[Html]:
    """Return the numbers of commands, without those that would overlap the previous number."""
    labels, free = [], 0.0
    for number, position in commands:
        share = position / axis.seconds
        if share >= free:
            anchor = "end" if share > 0.98 else "start" if share < 0.02 else "middle"
            labels.append(el("text", number, x=percent(share), y=y, text_anchor=anchor, class_="order-number"))
            free = share + _LABEL_WIDTH
    return labels


def time_axis(axis: Axis, commands: Sequence[tuple[int, float]] = ()) -> Html:
    """Return the row below the tracks: times, pauses and the numbers of commands."""
    positions = time_ticks(axis.seconds)
    labels = []
    for number, position in enumerate(positions):
        at = percent(position / axis.seconds)
        anchor = "start" if number == 0 else "end" if position > 0.97 * axis.seconds else "middle"
        labels.append(el("line", x1=at, x2=at, y1=0, y2=4, class_="tick"))
        labels.append(el("text", tick(position), x=at, y=16, text_anchor=anchor, class_="odd" if number % 2 else None))
    for number, pause in enumerate(axis.pauses[:12]):
        at = percent(pause.position / axis.seconds)
        label = f"pause {duration(pause.seconds)}"
        anchor = "end" if pause.position > 0.8 * axis.seconds else "middle"
        labels.append(
            el("text", label, x=at, y=30, text_anchor=anchor, class_="odd pause-words" if number % 2 else "pause-words")
        )
    height = 34 if axis.pauses else 20
    if commands:
        labels += _command_numbers(axis, commands, height + 10)
        height += 14
    return el("div", el("span"), el("svg", *labels, width="100%", height=height, aria_hidden="true"), class_="track axis")


class Line(NamedTuple):
    """One quantity over time."""

    key: str  #: name in the data for the script
    title: str
    mean: Floats
    low: Floats | None = None  #: with high: the range over nodes
    high: Floats | None = None


def line_track(
    axis: Axis, line: Line, most: float, format_value: Callable[[float], str], label: str, more: Iterable[Html] = ()
) -> Html:
    """Return a track that shows one quantity as a line and its range as a band.

    Args:
        axis: Time axis.
        line: Quantity to draw.
        most: Value at the upper edge.
        format_value: Formats the values at the left edge.
        label: Description for screen readers.
        more: Further shapes on top.
    """
    shapes = []
    if line.low is not None and line.high is not None:
        shapes.append(el("path", d=_band(axis, line.low, line.high, most), class_="band"))
    shapes.append(el("path", d=_line(axis, line.mean, most), class_="curve"))
    return track(
        line.key, line.title, most, format_value, [stretched(*shapes, height=_SCALE), *more, *pause_lines(axis)], label
    )


def track(key: str, title: str, most: float, format_value: Callable[[float], str], shapes: Iterable[Html], label: str) -> Html:
    """Return a plot with its title and the values at its left edge."""
    figures = time_ticks(most, 3) if format_value is tick else ticks(most, 3, base=2 if format_value is size else 10)
    lines = [el("line", x1=0, x2="100%", y1=_y(position, most), y2=_y(position, most), class_="grid") for position in figures]
    names = [
        el("text", format_value(position), x="100%", y=max(_figure(position, most), 10), text_anchor="end", class_="figure")
        for position in figures
    ]
    plot = el("svg", *lines, *shapes, width="100%", height=HEIGHT, role="img", aria_label=label)
    return join(
        el("h4", title),
        el(
            "div",
            el("svg", *names, width="100%", height=HEIGHT, aria_hidden="true", class_="figures"),
            el(
                "div",
                plot,
                class_="plot",
                tabindex=0,
                data_chart=key,
                role="group",
                aria_label=f"{title}; arrow keys move through it",
            ),
            class_="track",
        ),
    )


def level(value: float, most: float) -> Html:
    """Return a dashed line across the plot at *value*; its label belongs above the plot, where no curve crosses it."""
    y = _y(value, most)
    return el("line", x1=0, x2="100%", y1=y, y2=y, class_="level")


def most_of(*arrays: Floats | None) -> float:
    """Return the highest value in *arrays*, 0 without any."""
    maxima = [float(np.nanmax(array)) for array in arrays if array is not None and not np.isnan(array).all()]
    return max(maxima, default=0.0)


def _y(value: float, most: float) -> str:
    return f"{_figure(value, most) - 3:.1f}"


def _figure(value: float, most: float) -> float:
    return HEIGHT * (1 - value / most) + 3 if most else HEIGHT + 0.0


def _runs(axis: Axis, values: Floats) -> list[list[int]]:
    """Return groups of bins with values; a pause separates groups."""
    cuts = axis.bins(np.asarray([pause.position for pause in axis.pauses], dtype=np.float64))
    filled = np.flatnonzero(~np.isnan(values))
    groups = np.searchsorted(cuts, filled, side="right")
    return [filled[groups == group].tolist() for group in np.unique(groups)]


def _line(axis: Axis, values: Floats, most: float) -> str:
    """Return the path through all bins with a value; a single bin is a dot."""
    if not most:
        return ""
    return "".join(
        "M" + "L".join(_points(run, values, most)) + ("h.01" if len(run) == 1 else "") for run in _runs(axis, values)
    )


def _band(axis: Axis, low: Floats, high: Floats, most: float) -> str:
    """Return the path of the area between *low* and *high*."""
    if not most:
        return ""
    return "".join(
        "M" + "L".join([*_points(run, high, most), *reversed(_points(run, low, most))]) + "z" for run in _runs(axis, low)
    )


def _points(bins: list[int], values: Floats, most: float) -> list[str]:
    return [f"{position + 0.5},{_SCALE * (1 - values[position] / most):.0f}" for position in bins]


def legend(*entries: tuple[str, str]) -> Html:
    """Return a legend; each entry is a CSS class and a label."""
    items = [
        el("li", el("svg", el("rect", width=16, height=12, class_=kind), width=16, height=12, aria_hidden="true"), " ", label)
        for kind, label in entries
    ]
    return el("ul", *items, class_="legend")


def columns_over_time(good: Floats, bad: Floats, width: int, most: float) -> list[Html]:
    """Return columns, each *width* bins wide: succeeded, and failed on top."""
    shapes = []
    for number, (succeeded, failed) in enumerate(zip(good.tolist(), bad.tolist(), strict=True)):
        position = {"x": percent(number * width / BINS), "width": percent(width / BINS)}
        for value, floor, kind in ((succeeded, 0.0, "ok column"), (failed, succeeded, "bad column")):
            if value > 0:
                height = HEIGHT * value / most
                y = HEIGHT * (1 - (floor + value) / most)
                shapes.append(el("rect", **position, y=f"{y:.2f}", height=f"{height:.2f}", class_=kind))
    return shapes


def stacked_bar(parts: Sequence[tuple[str, int]], label: str) -> Html:
    """Return a horizontal bar with a share for each part; a part is a CSS class and a number."""
    total = sum(number for _, number in parts)
    shapes, position = [], 0.0
    for kind, number in parts:
        share = number / total if total else 0.0
        if number:
            width = max(share, 0.004)  # one failure among a million stays visible
            shapes.append(el("rect", x=percent(min(position, 1 - width)), width=percent(width), height="100%", class_=kind))
        position += share
    return el("svg", *shapes, width="100%", height=18, role="img", aria_label=label, class_="bar")


def distribution(
    heights: Sequence[tuple[int, int]], marks: Sequence[tuple[float, str]], edges: Sequence[tuple[float, str]]
) -> Html:
    """Return a histogram.

    Args:
        heights: Succeeded and failed of each column.
        marks: Positions from 0 to 1 to highlight, with labels.
        edges: Positions from 0 to 1 of ticks on the lower edge, with labels.
    """
    most = max((good + bad for good, bad in heights), default=1) or 1
    height, roof = 150, 34
    shapes = []
    for number, (good, bad) in enumerate(heights):
        position = {"x": percent((number + 0.06) / len(heights)), "width": percent(0.88 / len(heights))}
        scale = (height - roof) / most
        for value, floor, kind in ((good, 0, "ok column"), (bad, good, "bad column")):
            if value:
                top = max(value * scale, 1.5)
                shapes.append(el("rect", **position, y=f"{height - floor * scale - top:.2f}", height=f"{top:.2f}", class_=kind))
    for number, (share, label) in enumerate(marks):
        anchor = "end" if share > 0.7 else "start"
        at, y = percent(share), 10 + 11 * (number % 3)
        shapes.append(el("line", x1=at, x2=at, y1=y - 9, y2=height, class_="level"))
        shapes.append(el("text", label, x=at, dx=-3 if anchor == "end" else 3, y=y, text_anchor=anchor, class_="level-words"))
    shapes.append(el("line", x1=0, x2="100%", y1=height, y2=height, class_="tick"))
    for number, (share, label) in enumerate(edges):
        anchor = "start" if share < 0.03 else "end" if share > 0.97 else "middle"
        at = percent(share)
        shapes.append(el("line", x1=at, x2=at, y1=height, y2=height + 4, class_="tick"))
        shapes.append(el("text", label, x=at, y=height + 16, text_anchor=anchor, class_="odd" if number % 2 else None))
    title = "Distribution of durations; the table below has the figures."
    return el("svg", *shapes, width="100%", height=height + 20, role="img", aria_label=title)
