"""The shapes of a report: tracks along the time axis, and columns. Inline SVG that stretches without stretching its text.

An <svg> without a viewBox takes places in percent, so that it follows the width of the page; long paths lie in an inner one
that is stretched. Nothing is told by colour alone: failures are hatched, or hang from the upper edge.
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
_ROOM = 0.03  #: of the width, for the number of an order
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
    """Return a share as a place in percent.

    >>> percent(0.12345678)
    '12.346%'
    """
    return f"{100 * share:.3f}".rstrip("0").rstrip(".") + "%"


def stretched(*paths: Html, height: int) -> Html:
    """Return a drawing of BINS by *height* that fills what it lies in."""
    box = f"0 0 {BINS} {height}"
    return el("svg", *paths, viewBox=box, preserveAspectRatio="none", width="100%", height="100%")


def steps(heights: Sequence[int], floor: int) -> str:
    """Return the path of an area that stands on *floor*, one height per bin; neighbours of one height are one step.

    >>> steps([2, 2, 0], 10)
    'M0,10V8h2V10h1V10z'
    """
    path, place = [f"M0,{floor}"], 0
    while place < len(heights):
        stop = place
        while stop < len(heights) and heights[stop] == heights[place]:
            stop += 1
        path.append(f"V{floor - heights[place]}h{stop - place}")
        place = stop
    return "".join(path) + f"V{floor}z"


def bars_from_above(heights: Sequence[int]) -> str:
    """Return the path of bars that hang from the upper edge, one per bin that has a height."""
    return "".join(f"M{place},0h1v{height}h-1z" for place, height in enumerate(heights) if height)


def pause_lines(axis: Axis) -> list[Html]:
    """Return a line where each pause was cut out."""
    places = [percent(pause.place / axis.seconds) for pause in axis.pauses[:50]]
    return [el("line", x1=place, x2=place, y1=0, y2="100%", class_="pause") for place in places]


def order_lines(axis: Axis, orders: Sequence[tuple[int, float]]) -> list[Html]:
    """Return a line where each order was followed; *orders* are numbers and places, s."""
    places = [percent(place / axis.seconds) for _, place in orders[:50]]
    return [el("line", x1=place, x2=place, y1=0, y2="100%", class_="ordered") for place in places]


def _order_numbers(axis: Axis, orders: Sequence[tuple[int, float]], y: int) -> list[Html]:
    """Return the numbers of orders; of those too near to the one before, none."""
    labels, free = [], 0.0
    for number, place in orders:
        share = place / axis.seconds
        if share >= free:
            anchor = "end" if share > 0.98 else "start" if share < 0.02 else "middle"
            labels.append(el("text", number, x=percent(share), y=y, text_anchor=anchor, class_="order-number"))
            free = share + _ROOM
    return labels


def time_axis(axis: Axis, orders: Sequence[tuple[int, float]] = ()) -> Html:
    """Return the row under the tracks with the times on it, and below them pauses and the numbers of orders."""
    places = time_ticks(axis.seconds)
    labels = []
    for number, place in enumerate(places):
        at = percent(place / axis.seconds)
        anchor = "start" if number == 0 else "end" if place > 0.97 * axis.seconds else "middle"
        labels.append(el("line", x1=at, x2=at, y1=0, y2=4, class_="tick"))
        labels.append(el("text", tick(place), x=at, y=16, text_anchor=anchor, class_="odd" if number % 2 else None))
    for number, pause in enumerate(axis.pauses[:12]):
        at = percent(pause.place / axis.seconds)
        words = f"pause {duration(pause.seconds)}"
        anchor = "end" if pause.place > 0.8 * axis.seconds else "middle"
        labels.append(
            el("text", words, x=at, y=30, text_anchor=anchor, class_="odd pause-words" if number % 2 else "pause-words")
        )
    height = 34 if axis.pauses else 20
    if orders:
        labels += _order_numbers(axis, orders, height + 10)
        height += 14
    return el("div", el("span"), el("svg", *labels, width="100%", height=height, aria_hidden="true"), class_="track axis")


class Line(NamedTuple):
    """A quantity over time."""

    key: str  #: that the script knows it by
    title: str
    mean: Floats
    low: Floats | None = None  #: with high: the range over nodes
    high: Floats | None = None


def line_track(
    axis: Axis, line: Line, most: float, words: Callable[[float], str], label: str, more: Iterable[Html] = ()
) -> Html:
    """Return a track with one quantity as a line, and its range as a band.

    Args:
        axis: Of time.
        line: To draw.
        most: The figure at the upper edge.
        words: Says what a figure is, at the left edge.
        label: What is to be seen, for those who cannot.
        more: Shapes on top.
    """
    shapes = []
    if line.low is not None and line.high is not None:
        shapes.append(el("path", d=_band(axis, line.low, line.high, most), class_="band"))
    shapes.append(el("path", d=_line(axis, line.mean, most), class_="curve"))
    return track(line.key, line.title, most, words, [stretched(*shapes, height=_SCALE), *more, *pause_lines(axis)], label)


def track(key: str, title: str, most: float, words: Callable[[float], str], shapes: Iterable[Html], label: str) -> Html:
    """Return a plot with its title and the figures at its left edge."""
    figures = time_ticks(most, 3) if words is tick else ticks(most, 3, base=2 if words is size else 10)
    lines = [el("line", x1=0, x2="100%", y1=_y(place, most), y2=_y(place, most), class_="grid") for place in figures]
    names = [
        el("text", words(place), x="100%", y=max(_figure(place, most), 10), text_anchor="end", class_="figure")
        for place in figures
    ]
    plot = el("svg", *lines, *shapes, width="100%", height=HEIGHT, role="img", aria_label=label)
    return join(
        el("h4", title),
        el(
            "div",
            el("svg", *names, width="100%", height=HEIGHT, aria_hidden="true", class_="figures"),
            el("div", plot, class_="plot", tabindex=0, data_chart=key, role="group", aria_label=f"{title}; arrow keys read it"),
            class_="track",
        ),
    )


def level(value: float, most: float) -> Html:
    """Return a dashed line right across at *value*; its words belong above the plot, where no curve runs through them."""
    y = _y(value, most)
    return el("line", x1=0, x2="100%", y1=y, y2=y, class_="level")


def most_of(*arrays: Floats | None) -> float:
    """Return the highest figure in *arrays*, 0 without any."""
    found = [float(np.nanmax(array)) for array in arrays if array is not None and not np.isnan(array).all()]
    return max(found, default=0.0)


def _y(value: float, most: float) -> str:
    return f"{_figure(value, most) - 3:.1f}"


def _figure(value: float, most: float) -> float:
    return HEIGHT * (1 - value / most) + 3 if most else HEIGHT + 0.0


def _runs(axis: Axis, values: Floats) -> list[list[int]]:
    """Return the bins that have a value, put together where no pause was cut out between them."""
    cuts = axis.bins(np.asarray([pause.place for pause in axis.pauses], dtype=np.float64))
    seen = np.flatnonzero(~np.isnan(values))
    groups = np.searchsorted(cuts, seen, side="right")
    return [seen[groups == group].tolist() for group in np.unique(groups)]


def _line(axis: Axis, values: Floats, most: float) -> str:
    """Return the path through all bins with a value; a single one is a dot."""
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
    return [f"{place + 0.5},{_SCALE * (1 - values[place] / most):.0f}" for place in bins]


def legend(*entries: tuple[str, str]) -> Html:
    """Return what the shapes stand for; class and words of each."""
    found = [
        el("li", el("svg", el("rect", width=16, height=12, class_=kind), width=16, height=12, aria_hidden="true"), " ", words)
        for kind, words in entries
    ]
    return el("ul", *found, class_="legend")
