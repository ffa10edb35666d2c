"""Columns and bars of a report, succeeded below and failed, hatched, on top of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_parallel_run.monitoring.report.axis import BINS, Floats
from prefect_parallel_run.monitoring.report.charts import HEIGHT, percent
from prefect_parallel_run.monitoring.report.html import Html, el


def columns_over_time(good: Floats, bad: Floats, width: int, most: float) -> list[Html]:
    """Return columns, each *width* bins wide: what was done well, and on top of it what failed."""
    shapes = []
    for number, (fine, failed) in enumerate(zip(good.tolist(), bad.tolist(), strict=True)):
        place = {"x": percent(number * width / BINS), "width": percent(width / BINS)}
        for value, floor, kind in ((fine, 0.0, "ok column"), (failed, fine, "bad column")):
            if value > 0:
                height = HEIGHT * value / most
                y = HEIGHT * (1 - (floor + value) / most)
                shapes.append(el("rect", **place, y=f"{y:.2f}", height=f"{height:.2f}", class_=kind))
    return shapes


def stacked_bar(parts: Sequence[tuple[str, int]], label: str) -> Html:
    """Return one bar across with a share for each part, by class."""
    total = sum(size for _, size in parts)
    shapes, place = [], 0.0
    for kind, size in parts:
        share = size / total if total else 0.0
        if size:
            least = max(share, 0.004)  # one failure among a million is still to be seen
            shapes.append(el("rect", x=percent(min(place, 1 - least)), width=percent(least), height="100%", class_=kind))
        place += share
    return el("svg", *shapes, width="100%", height=18, role="img", aria_label=label, class_="bar")


def distribution(
    heights: Sequence[tuple[int, int]], marks: Sequence[tuple[float, str]], edges: Sequence[tuple[float, str]]
) -> Html:
    """Return columns side by side.

    Args:
        heights: Succeeded and failed of each column.
        marks: Places from 0 to 1, with their words, that stand out.
        edges: The same, along the lower edge.
    """
    most = max((good + bad for good, bad in heights), default=1) or 1
    height, roof = 150, 34
    shapes = []
    for number, (good, bad) in enumerate(heights):
        place = {"x": percent((number + 0.06) / len(heights)), "width": percent(0.88 / len(heights))}
        scale = (height - roof) / most
        for value, floor, kind in ((good, 0, "ok column"), (bad, good, "bad column")):
            if value:
                size = max(value * scale, 1.5)
                shapes.append(el("rect", **place, y=f"{height - floor * scale - size:.2f}", height=f"{size:.2f}", class_=kind))
    for number, (share, words) in enumerate(marks):
        anchor = "end" if share > 0.7 else "start"
        at, y = percent(share), 10 + 11 * (number % 3)
        shapes.append(el("line", x1=at, x2=at, y1=y - 9, y2=height, class_="level"))
        shapes.append(el("text", words, x=at, dx=-3 if anchor == "end" else 3, y=y, text_anchor=anchor, class_="level-words"))
    shapes.append(el("line", x1=0, x2="100%", y1=height, y2=height, class_="tick"))
    for number, (share, words) in enumerate(edges):
        anchor = "start" if share < 0.03 else "end" if share > 0.97 else "middle"
        at = percent(share)
        shapes.append(el("line", x1=at, x2=at, y1=height, y2=height + 4, class_="tick"))
        shapes.append(el("text", words, x=at, y=height + 16, text_anchor=anchor, class_="odd" if number % 2 else None))
    label = "Distribution of durations; the table below has its figures."
    return el("svg", *shapes, width="100%", height=height + 20, role="img", aria_label=label)
