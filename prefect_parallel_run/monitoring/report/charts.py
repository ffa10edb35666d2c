"""The charts of a report: inline SVG that scales to the page without scaling its text.

An <svg> without a viewBox has positions in percent, so that it follows the width of the page; an inner, stretched <svg> holds
the long paths. Colour is never the only distinction: failures are hatched, or hang from the upper edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

from prefect_parallel_run.monitoring.logs import escape_control_chars
from prefect_parallel_run.monitoring.report.axis import BINS, Axis, Floats
from prefect_parallel_run.monitoring.report.format import duration, per_second, share_label, size, tick, ticks, time_ticks
from prefect_parallel_run.monitoring.report.log_readers import Curve

HEIGHT = 96  #: px of a plot
_SCALE = 1000  #: height of the inner drawing
_LABEL_WIDTH = 0.03  #: share of the width for the number of a command
_MAX_LINES = 50  #: of pauses, and of commands
UNITS: dict[str, tuple[Callable[[float], str], Callable[[float, int], list[float]]]] = {
    "rate": (per_second, ticks),  # how to write a value, and which values to mark; page.js knows the units too
    "percent": (share_label, ticks),
    "bytes": (size, partial(ticks, base=2)),
    "seconds": (tick, time_ticks),
}


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """Return an SVG element; what is not Markup is escaped, and attributes that are None are omitted.

    >>> element("text", "a < b", class_="x", text_anchor="end")
    Markup('<text class="x" text-anchor="end">a &lt; b</text>')
    """
    start = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_text(value)}"' for name, value in attributes.items() if value is not None
    )
    content = "".join(map(_text, children))
    svg = f"<{tag}{start}>{content}</{tag}>" if children or tag == "svg" else f"<{tag}{start}/>"
    return Markup(svg)  # noqa: S704  its parts are escaped


def _text(value: object) -> Markup:
    return value if isinstance(value, Markup) else escape(escape_control_chars(str(value)))


def percent(share: float) -> str:
    """Return a share from 0 to 1 as a CSS percentage.

    >>> percent(0.12345678)
    '12.346%'
    """
    return f"{100 * share:.3f}".rstrip("0").rstrip(".") + "%"


def drawing(shapes: Iterable[Markup], height: int, label: str | None = None, class_: str | None = None) -> Markup:
    """Return shapes as an image; without *label*, its description for screen readers, they skip it."""
    role, hidden = ("img", None) if label is not None else (None, "true")
    return element("svg", *shapes, width="100%", height=height, role=role, aria_label=label, aria_hidden=hidden, class_=class_)


def stretched(*paths: Markup, height: int) -> Markup:
    """Return a drawing of BINS by *height* units that fills its container."""
    box = f"0 0 {BINS} {height}"
    return element("svg", *paths, viewBox=box, preserveAspectRatio="none", width="100%", height="100%")


def steps(heights: Sequence[int], floor: int) -> str:
    """Return the path of a step chart on *floor*, one height per bin; equal neighbors form one step.

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


def pause_lines(axis: Axis) -> list[Markup]:
    """Return a line at each pause that was cut out."""
    return [_vertical(pause.position / axis.seconds, 0, "100%", "pause") for pause in axis.pauses[:_MAX_LINES]]


def command_lines(axis: Axis, commands: Sequence[tuple[int, float]]) -> list[Markup]:
    """Return a line at each applied control command; *commands* are numbers and positions."""
    return [_vertical(position / axis.seconds, 0, "100%", "ordered") for _, position in commands[:_MAX_LINES]]


def _vertical(share: float, top: float, bottom: float | str, class_: str) -> Markup:
    return element("line", x1=percent(share), x2=percent(share), y1=top, y2=bottom, class_=class_)


def _horizontal(y: float | str, class_: str) -> Markup:
    return element("line", x1=0, x2="100%", y1=y, y2=y, class_=class_)


def _command_numbers(axis: Axis, commands: Sequence[tuple[int, float]], y: int) -> list[Markup]:
    """Return the numbers of commands, without those that would overlap the previous number."""
    labels, free = [], 0.0
    for number, position in commands:
        share = position / axis.seconds
        if share >= free:
            anchor = "end" if share > 0.98 else "start" if share < 0.02 else "middle"
            labels.append(element("text", number, x=percent(share), y=y, text_anchor=anchor, class_="order-number"))
            free = share + _LABEL_WIDTH
    return labels


def time_axis(axis: Axis, commands: Sequence[tuple[int, float]] = ()) -> Markup:
    """Return the drawing below the lanes: times, pauses and the numbers of commands."""
    labels = []
    for number, position in enumerate(time_ticks(axis.seconds)):
        share = position / axis.seconds
        anchor = "start" if number == 0 else "end" if share > 0.97 else "middle"
        labels.append(_vertical(share, 0, 4, "tick"))
        odd = "odd" if number % 2 else None
        labels.append(element("text", tick(position), x=percent(share), y=16, text_anchor=anchor, class_=odd))
    for number, pause in enumerate(axis.pauses[:12]):
        share = pause.position / axis.seconds
        anchor, kind = "end" if share > 0.8 else "middle", "odd pause-words" if number % 2 else "pause-words"
        label = f"pause {duration(pause.seconds)}"
        labels.append(element("text", label, x=percent(share), y=30, text_anchor=anchor, class_=kind))
    height = 34 if axis.pauses else 20
    if commands:
        labels += _command_numbers(axis, commands, height + 10)
        height += 14
    return drawing(labels, height)


class Scale(NamedTuple):
    """The vertical axis of a plot."""

    most: float  #: value at the upper edge
    unit: str  #: a key of UNITS

    def y(self, value: float) -> str:
        """Return the position of *value*."""
        return f"{self._label_y(value) - 3:.1f}"

    def _label_y(self, value: float) -> float:
        return HEIGHT * (1 - value / self.most) + 3 if self.most else HEIGHT + 0.0

    def _ticks(self) -> list[float]:
        return UNITS[self.unit][1](self.most, 3)

    def labels(self) -> Markup:
        """Return the drawing of the values at the left edge."""
        write = UNITS[self.unit][0]
        texts = [(write(value), max(self._label_y(value), 10)) for value in self._ticks()]
        names = [element("text", text, x="100%", y=y, text_anchor="end", class_="figure") for text, y in texts]
        return drawing(names, HEIGHT, class_="figures")

    def plot(self, shapes: Iterable[Markup], label: str) -> Markup:
        """Return *shapes* in front of the lines of the axis; *label* is for screen readers."""
        return drawing([*(_horizontal(self.y(value), "grid") for value in self._ticks()), *shapes], HEIGHT, label)

    def level(self, value: float) -> Markup:
        """Return a dashed line across the plot; its label belongs above the plot, where no curve crosses it."""
        return _horizontal(self.y(value), "level")


def curve_shapes(axis: Axis, curve: Curve, most: float) -> list[Markup]:
    """Return a quantity as a line, and as a band if it differs between nodes; *most* is the value at the upper edge."""
    shapes = [element("path", d=_line(axis, curve.mean, most), class_="curve")]
    if curve.is_band:
        shapes.insert(0, element("path", d=_band(axis, curve.low, curve.high, most), class_="band"))
    return [stretched(*shapes, height=_SCALE)]


def most_of(values: Floats) -> float:
    """Return the highest value, 0 without any."""
    return 0.0 if np.isnan(values).all() else float(np.nanmax(values))


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


def columns_over_time(good: Floats, bad: Floats, width: int, most: float) -> list[Markup]:
    """Return columns, each *width* bins wide: succeeded, and failed on top."""
    shapes = []
    for number, (succeeded, failed) in enumerate(zip(good.tolist(), bad.tolist(), strict=True)):
        position = {"x": percent(number * width / BINS), "width": percent(width / BINS)}
        for value, floor, kind in ((succeeded, 0.0, "ok column"), (failed, succeeded, "bad column")):
            if value > 0:
                height = HEIGHT * value / most
                y = HEIGHT * (1 - (floor + value) / most)
                shapes.append(element("rect", **position, y=f"{y:.2f}", height=f"{height:.2f}", class_=kind))
    return shapes


def stacked_bar(parts: Sequence[tuple[str, int]], label: str) -> Markup:
    """Return a horizontal bar with a share for each part; a part is a CSS class and a number."""
    total = sum(number for _, number in parts)
    shapes, position = [], 0.0
    for kind, number in parts:
        share = number / total if total else 0.0
        if number:
            width = max(share, 0.004)  # one failure among a million stays visible
            x = percent(min(position, 1 - width))
            shapes.append(element("rect", x=x, width=percent(width), height="100%", class_=kind))
        position += share
    return drawing(shapes, 18, label, "bar")


def distribution(
    heights: Sequence[tuple[int, int]], marks: Sequence[tuple[float, str]], edges: Sequence[tuple[float, str]]
) -> Markup:
    """Return a histogram.

    Args:
        heights: Succeeded and failed of each column.
        marks: Positions from 0 to 1 to highlight, with labels.
        edges: Positions from 0 to 1 of ticks on the lower edge, with labels.
    """
    most = max((good + bad for good, bad in heights), default=1) or 1
    height, roof = 150, 34
    scale = (height - roof) / most
    shapes = []
    for number, (good, bad) in enumerate(heights):
        position = {"x": percent((number + 0.06) / len(heights)), "width": percent(0.88 / len(heights))}
        for value, floor, kind in ((good, 0, "ok column"), (bad, good, "bad column")):
            if value:
                length = max(value * scale, 1.5)
                top = height - floor * scale - length
                shapes.append(element("rect", **position, y=f"{top:.2f}", height=f"{length:.2f}", class_=kind))
    for number, (share, label) in enumerate(marks):
        anchor, dx, y = "end" if share > 0.7 else "start", -3 if share > 0.7 else 3, 10 + 11 * (number % 3)
        shapes.append(_vertical(share, y - 9, height, "level"))
        shapes.append(element("text", label, x=percent(share), dx=dx, y=y, text_anchor=anchor, class_="level-words"))
    shapes.append(_horizontal(height, "tick"))
    for number, (share, label) in enumerate(edges):
        anchor, odd = "start" if share < 0.03 else "end" if share > 0.97 else "middle", "odd" if number % 2 else None
        shapes.append(_vertical(share, height, height + 4, "tick"))
        shapes.append(element("text", label, x=percent(share), y=height + 16, text_anchor=anchor, class_=odd))
    return drawing(shapes, height + 20, "Distribution of durations; the table below has the figures.")
