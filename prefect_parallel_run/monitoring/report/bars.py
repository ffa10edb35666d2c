"""Columns and bars of a report: succeeded at the bottom, failed (hatched) on top. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_parallel_run.monitoring.report.axis import BINS, Floats
from prefect_parallel_run.monitoring.report.charts import HEIGHT, percent
from prefect_parallel_run.monitoring.report.html import Html, el


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
    total = sum(size for _, size in parts)
    shapes, position = [], 0.0
    for kind, size in parts:
        share = size / total if total else 0.0
        if size:
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
                size = max(value * scale, 1.5)
                shapes.append(
                    el("rect", **position, y=f"{height - floor * scale - size:.2f}", height=f"{size:.2f}", class_=kind)
                )
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
