"""The section about time: the timeline, and below it on the same axis throughput, memory, CPU and the forecast."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from prefect_parallel_run._units import count, format_size
from prefect_parallel_run.monitoring.report.axis import BINS, Axis, Floats
from prefect_parallel_run.monitoring.report.bars import columns_over_time
from prefect_parallel_run.monitoring.report.charts import Line, level, line_track, most_of, track
from prefect_parallel_run.monitoring.report.data import ReportData, Timeline
from prefect_parallel_run.monitoring.report.format import duration, rate, size, tick
from prefect_parallel_run.monitoring.report.html import Html, el, join
from prefect_parallel_run.monitoring.report.samples import Curve, Progress, Resources
from prefect_parallel_run.monitoring.report.tables import listing
from prefect_parallel_run.monitoring.report.timeline import describe_lanes, payload, timeline

_MIN_PER_COLUMN = 12  #: attempts on average; with fewer, columns vary by chance
_MAX_PEAKS = 12


class Chart(NamedTuple):
    """A track, and the name, unit and values of its series for the tooltips."""

    html: Html
    series: list[tuple[str, str, list[float | None]]]


def over_time(report: ReportData) -> tuple[Html | None, dict[str, Any]]:
    """Return the section and the data of its charts for the script."""
    data = report.timeline
    if data is None:
        return None, {}
    charts = dict(_charts(report, data))
    figures = {
        "seconds": data.axis.seconds,
        "bins": BINS,
        "spans": data.axis.spans,
        "charts": {key: chart.series for key, chart in charts.items()},
        "lanes": payload(data),
    }
    section = el(
        "section",
        el("h2", "Timeline"),
        el("p", describe_lanes(data), class_="quiet"),
        timeline(data),
        *(chart.html for chart in charts.values()),
        _peaks(report.resources) if report.resources is not None else None,
        id="timeline",
    )
    return section, figures


def _charts(report: ReportData, data: Timeline) -> Iterator[tuple[str, Chart]]:
    yield "throughput", _throughput(data)
    if report.resources is not None:
        yield from _resources(data.axis, report.resources)
    if (chart := _eta(report, data.axis)) is not None:
        yield "eta", chart


def _throughput(data: Timeline) -> Chart:
    attempts, total = data.attempts, data.attempts.dated
    width = next((w for w in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20) if total * w >= _MIN_PER_COLUMN * BINS), 24)
    seconds = data.axis.bin_seconds * width
    good, bad = (
        counts.sum(axis=0).reshape(-1, width).sum(axis=1) / seconds for counts in (attempts.succeeded, attempts.failed)
    )
    most = most_of(good + bad) or 1.0
    title = f"Finished attempts per second, in columns of {duration(seconds)}"
    label = f"Throughput: {rate(float(good.mean()))} succeeded on average, at most {rate(float(good.max()))}."
    html = track("throughput", title, most, _per_second, columns_over_time(good, bad, width, most), label)
    series = [("succeeded", "rate", _values(np.repeat(good, width))), ("failed", "rate", _values(np.repeat(bad, width)))]
    return Chart(html, series)


def _per_second(value: float) -> str:
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def _resources(axis: Axis, resources: Resources) -> Iterator[tuple[str, Chart]]:
    several = len(resources.peaks) > 1
    suffix = f", mean and range of {count(len(resources.peaks), 'node')}" if several else ""
    if several and resources.nodes > len(resources.peaks):
        suffix += f" out of {count(resources.nodes)}"
    processes = 1.1 * max(most_of(resources.processes_memory.high), 1.0)
    yield "memory", _curve(axis, "memory", f"Used memory of the machine, percent{suffix}", resources.memory, 100.0, "percent")
    title = f"Memory of the processes{' per node' if several else ''}{suffix}"
    yield "processes", _curve(axis, "processes", title, resources.processes_memory, processes, "bytes")
    yield "cpu", _curve(axis, "cpu", f"CPU of the machine, percent{suffix}", resources.cpu, 100.0, "percent")


def _curve(axis: Axis, key: str, title: str, curve: Curve, most: float, unit: str) -> Chart:
    format_value = _percent if unit == "percent" else size
    is_band = bool(np.nanmax(curve.high - curve.low) > 0)
    line = Line(key, title, curve.mean, *((curve.low, curve.high) if is_band else ()))
    label = f"{title}: {format_value(float(np.nanmean(curve.mean)))} on average, at most {format_value(most_of(curve.high))}."
    series = [("mean" if is_band else "in use", unit, _values(curve.mean))]
    if is_band:
        series += [("lowest node", unit, _values(curve.low)), ("highest node", unit, _values(curve.high))]
    return Chart(line_track(axis, line, most, format_value, label), series)


def _percent(value: float) -> str:
    return f"{value:.0f} %"


def _peaks(resources: Resources) -> Html:
    heads = ("node", "peak memory", "total memory", "peak memory of processes", "mean CPU", "least free disk")
    rows = [
        (
            peak.node,
            format_size(peak.memory_used),
            format_size(peak.memory_total),
            format_size(peak.processes_memory),
            _percent(peak.cpu_percent),
            format_size(peak.disk_free),
        )
        for peak in resources.peaks[:_MAX_PEAKS]
    ]
    caption = "Highest memory use first"
    if len(resources.peaks) > _MAX_PEAKS:
        caption += f"; {_MAX_PEAKS} of {len(resources.peaks)}"
    return el("details", el("summary", "Peaks per node"), listing(caption, heads, rows, numbers=heads[1:]))


def _eta(report: ReportData, axis: Axis) -> Chart | None:
    """Return the forecasts of the last execution compared with its actual duration."""
    if not report.progress:
        return None
    number = max(report.progress)
    lines = [line for line in report.progress[number] if line.remaining_seconds is not None]
    if not lines:
        return None
    began = report.progress[number][0].time
    forecast = _in_bins(axis, lines, began)
    is_finished = report.progress[number][-1].finished >= report.progress[number][-1].planned
    actual = report.progress[number][-1].time - began if is_finished else None
    most = 1.1 * max(min(most_of(forecast), 3 * actual if actual else np.inf), actual or 0.0, 0.1)
    clipped = np.minimum(forecast, most)
    title = "Forecast of the duration of the last execution" if report.execution_count > 1 else "Forecast of the duration"
    note = _accuracy(lines, began, actual) if actual else "The execution did not finish, so the forecast cannot be compared."
    more = [level(actual, most)] if actual else []
    if actual:
        title += f"; dashed: the actual duration, {duration(actual)}"
    html = line_track(axis, Line("eta", title, clipped), most, tick, f"{title}. {note}", more)
    return Chart(join(html, el("p", note, class_="quiet under")), [("forecast", "seconds", _values(forecast))])


def _in_bins(axis: Axis, lines: list[Progress], began: float) -> Floats:
    """Return the last forecast of the duration in each bin; NaN without one."""
    forecast = np.full(BINS, np.nan)
    bins = axis.bins(axis.positions([line.time for line in lines]))
    for position, line in zip(bins.tolist(), lines, strict=True):
        forecast[position] = line.time - began + (line.remaining_seconds or 0.0)
    return forecast


def _accuracy(lines: list[Progress], began: float, actual: float) -> str:
    """Return since when the forecast was within 10 % of the actual duration."""
    since = actual
    for line in reversed(lines):
        if abs(line.time - began + (line.remaining_seconds or 0.0) - actual) > 0.1 * actual:
            break
        since = line.time - began
    first = lines[0].time - began + (lines[0].remaining_seconds or 0.0)
    return (
        f"The first forecast, after {duration(lines[0].time - began)}, was {duration(first)}; "
        f"the mini-batches took {duration(actual)}. "
        f"Forecasts stayed within 10 % of that from {100 * since / actual:.0f} % of the time on."
    )


def _values(array: Floats) -> list[float | None]:
    """Return values for JSON: four significant digits, None for missing ones."""
    return [None if np.isnan(value) else float(f"{value:.4g}") for value in array]
