"""What went on, and when: the timeline, and under it on the same axis throughput, memory, CPU and what was foretold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from prefect_parallel_run.monitoring.report.axis import BINS, Axis, Floats
from prefect_parallel_run.monitoring.report.bars import columns_over_time
from prefect_parallel_run.monitoring.report.charts import Line, level, line_track, most_of, track
from prefect_parallel_run.monitoring.report.data import Facts, Timeline
from prefect_parallel_run.monitoring.report.format import duration, rate, size, tick
from prefect_parallel_run.monitoring.report.html import Html, el, join
from prefect_parallel_run.monitoring.report.samples import Curve, Progress, Resources
from prefect_parallel_run.monitoring.report.tables import listing
from prefect_parallel_run.monitoring.report.timeline import lane_words, payload, timeline
from prefect_parallel_run.units import count, format_size

_TRIES_PER_COLUMN = 12  #: at least, on average: fewer would show chance
_MOST_PEAKS = 12


class Chart(NamedTuple):
    """A track, and its figures for the script that tells them: name, unit and values of every series."""

    html: Html
    series: list[tuple[str, str, list[float | None]]]


def over_time(facts: Facts) -> tuple[Html | None, dict[str, Any]]:
    """Return the section and the figures of its charts."""
    shown = facts.timeline
    if shown is None:
        return None, {}
    charts = dict(_charts(facts, shown))
    figures = {
        "seconds": shown.axis.seconds,
        "bins": BINS,
        "spans": shown.axis.spans,
        "charts": {key: chart.series for key, chart in charts.items()},
        "lanes": payload(shown),
    }
    section = el(
        "section",
        el("h2", "What went on"),
        el("p", lane_words(shown), class_="quiet"),
        timeline(shown),
        *(chart.html for chart in charts.values()),
        _peaks(facts.resources) if facts.resources is not None else None,
        id="timeline",
    )
    return section, figures


def _charts(facts: Facts, shown: Timeline) -> Iterator[tuple[str, Chart]]:
    yield "throughput", _throughput(shown)
    if facts.resources is not None:
        yield from _resources(shown.axis, facts.resources)
    if (chart := _eta(facts, shown.axis)) is not None:
        yield "eta", chart


def _throughput(shown: Timeline) -> Chart:
    tries, total = shown.tries, shown.tries.dated
    width = next((w for w in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20) if total * w >= _TRIES_PER_COLUMN * BINS), 24)
    seconds = shown.axis.bin_seconds * width
    good, bad = (counts.sum(axis=0).reshape(-1, width).sum(axis=1) / seconds for counts in (tries.succeeded, tries.failed))
    most = most_of(good + bad) or 1.0
    title = f"Tries ended per second, in columns of {duration(seconds)}"
    label = f"Throughput: {rate(float(good.mean()))} succeeded on average, {rate(float(good.max()))} at most."
    html = track("throughput", title, most, _per_second, columns_over_time(good, bad, width, most), label)
    series = [("succeeded", "rate", _values(np.repeat(good, width))), ("failed", "rate", _values(np.repeat(bad, width)))]
    return Chart(html, series)


def _per_second(value: float) -> str:
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def _resources(axis: Axis, found: Resources) -> Iterator[tuple[str, Chart]]:
    several = len(found.peaks) > 1
    over = f", mean and range of {count(len(found.peaks), 'node')}" if several else ""
    if several and found.nodes > len(found.peaks):
        over += f" out of {count(found.nodes)}"
    processes = 1.1 * max(most_of(found.processes_memory.high), 1.0)
    yield "memory", _curve(axis, "memory", f"Memory of the machine in use, percent{over}", found.memory, 100.0, "percent")
    title = f"Memory of the processes{' per node' if several else ''}{over}"
    yield "processes", _curve(axis, "processes", title, found.processes_memory, processes, "bytes")
    yield "cpu", _curve(axis, "cpu", f"CPU of the machine, percent{over}", found.cpu, 100.0, "percent")


def _curve(axis: Axis, key: str, title: str, curve: Curve, most: float, unit: str) -> Chart:
    words = _percent if unit == "percent" else size
    is_band = bool(np.nanmax(curve.high - curve.low) > 0)
    line = Line(key, title, curve.mean, *((curve.low, curve.high) if is_band else ()))
    label = f"{title}: {words(float(np.nanmean(curve.mean)))} on average, {words(most_of(curve.high))} at most."
    series = [("mean" if is_band else "in use", unit, _values(curve.mean))]
    if is_band:
        series += [("lowest node", unit, _values(curve.low)), ("highest node", unit, _values(curve.high))]
    return Chart(line_track(axis, line, most, words, label), series)


def _percent(value: float) -> str:
    return f"{value:.0f} %"


def _peaks(found: Resources) -> Html:
    heads = ("node", "memory in use, at most", "of", "processes' memory, at most", "CPU, mean", "disk free, least")
    rows = [
        (
            peak.node,
            format_size(peak.memory_used),
            format_size(peak.memory_total),
            format_size(peak.processes_memory),
            _percent(peak.cpu_percent),
            format_size(peak.disk_free),
        )
        for peak in found.peaks[:_MOST_PEAKS]
    ]
    words = "Those nearest to their memory first"
    if len(found.peaks) > _MOST_PEAKS:
        words += f"; {_MOST_PEAKS} of {len(found.peaks)}"
    return el("details", el("summary", "Peaks per node"), listing(words, heads, rows, numbers=heads[1:]))


def _eta(facts: Facts, axis: Axis) -> Chart | None:
    """Return what was foretold in the last drive, against what came true."""
    if not facts.progress:
        return None
    number = max(facts.progress)
    lines = [line for line in facts.progress[number] if line.remaining_seconds is not None]
    if not lines:
        return None
    began = facts.progress[number][0].time
    foretold = _in_bins(axis, lines, began)
    is_whole = facts.progress[number][-1].finished >= facts.progress[number][-1].planned
    truth = facts.progress[number][-1].time - began if is_whole else None
    most = 1.1 * max(min(most_of(foretold), 3 * truth if truth else np.inf), truth or 0.0, 0.1)
    shown = np.minimum(foretold, most)
    title = "How long the last drive was foretold to take" if facts.driven > 1 else "How long it was foretold to take"
    words = _how_good(lines, began, truth) if truth else "It did not come to its end, so nobody knows how true that was."
    more = [level(truth, most)] if truth else []
    if truth:
        title += f"; dashed: it took {duration(truth)}"
    html = line_track(axis, Line("eta", title, shown), most, tick, f"{title}. {words}", more)
    return Chart(join(html, el("p", words, class_="quiet under")), [("foretold to take", "seconds", _values(foretold))])


def _in_bins(axis: Axis, lines: list[Progress], began: float) -> Floats:
    """Return the last duration that was foretold in every bin; NaN where none was."""
    found = np.full(BINS, np.nan)
    bins = axis.bins(axis.places([line.time for line in lines]))
    for place, line in zip(bins.tolist(), lines, strict=True):
        found[place] = line.time - began + (line.remaining_seconds or 0.0)
    return found


def _how_good(lines: list[Progress], began: float, truth: float) -> str:
    """Return from when on the forecast was within a tenth of the truth."""
    since = truth
    for line in reversed(lines):
        if abs(line.time - began + (line.remaining_seconds or 0.0) - truth) > 0.1 * truth:
            break
        since = line.time - began
    first = lines[0].time - began + (lines[0].remaining_seconds or 0.0)
    return (
        f"The first forecast, after {duration(lines[0].time - began)}, said {duration(first)}; "
        f"the mini-batches took {duration(truth)}. "
        f"Forecasts stayed within 10 % of that from {100 * since / truth:.0f} % of the time on."
    )


def _values(array: Floats) -> list[float | None]:
    """Return figures as JSON has them: four digits, None for those that are not there."""
    return [None if np.isnan(value) else float(f"{value:.4g}") for value in array]
