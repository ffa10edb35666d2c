"""The section about time: one lane per slot or node, and below it on the same axis throughput, memory, CPU and the forecast.

A lane shows individual attempts or, for many attempts, the share of busy time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from prefect_parallel_run._units import count, format_size
from prefect_parallel_run.models import Outcome
from prefect_parallel_run.monitoring.report.attempts import Segment
from prefect_parallel_run.monitoring.report.axis import BINS, Axis, Floats
from prefect_parallel_run.monitoring.report.charts import (
    Line,
    bars_from_above,
    columns_over_time,
    command_lines,
    legend,
    level,
    line_track,
    most_of,
    pause_lines,
    percent,
    steps,
    stretched,
    time_axis,
    track,
)
from prefect_parallel_run.monitoring.report.data import ProcessSpan, ReportData, Timeline
from prefect_parallel_run.monitoring.report.format import duration, outcome, rate, size, tick
from prefect_parallel_run.monitoring.report.html import Html, el, join
from prefect_parallel_run.monitoring.report.log_readers import Curve, Progress, Resources
from prefect_parallel_run.monitoring.report.tables import listing

_HEIGHT = 20  #: px, of a lane and its inner drawing
_MAX_LETTERS = 600  #: kills to show as letters; more would overlap
_MIN_WIDTH = 0.0012  #: share of the width, so that a short attempt is visible
LETTERS = {Outcome.TIMED_OUT: "T", Outcome.OUT_OF_MEMORY: "M", Outcome.DIED: "D", Outcome.LOST: "L", "start_failed": "S"}
_MIN_PER_COLUMN = 12  #: attempts on average; with fewer, columns vary by chance
_MAX_PEAKS = 12


def timeline(data: Timeline) -> Html:
    """Return the legend, the lanes and the axis below them."""
    by_lane: dict[int, list[Segment]] = defaultdict(list)
    for segment in data.attempts.segments or ():
        by_lane[segment.lane].append(segment)
    kills = _by_lane(data.kills)
    has_letters = _has_letters(data)
    rows = []
    for number, lane in enumerate(data.lanes.lanes):
        shapes = _individual(data, number, by_lane[number]) if data.attempts.segments is not None else _aggregated(data, number)
        ends = kills.get(number, {})
        shapes += _letters(ends) if has_letters else [stretched(el("path", d=_ticks(ends), class_="kill"), height=_HEIGHT)]
        shapes += pause_lines(data.axis) + command_lines(data.axis, data.commands)
        drawing = el("svg", *shapes, width="100%", height=_HEIGHT, role="img", aria_label=_summary(data, number, ends))
        name = el("span", el("b", lane.node), " ", lane.label, class_="name", title=f"{lane.node} {lane.label}")
        rows.append(el("div", name, el("div", drawing, class_="plot", data_lane=number), class_="track lane"))
    lanes = el(
        "div",
        *rows,
        class_="lanes",
        id="lanes",
        tabindex=0,
        role="group",
        aria_label="Timeline: arrow keys go through lanes and mini-batches",
    )
    return join(_legend(data), lanes, time_axis(data.axis, data.commands))


def payload(data: Timeline) -> dict[str, Any]:
    """Return the data of the lanes for the script."""
    attempts = data.attempts
    names = sorted(attempts.outcomes)
    segments: dict[int, list[list[float]]] = defaultdict(list)
    for segment in attempts.segments or ():
        position = [round(segment.begins, 4), round(segment.seconds, 5)]
        segments[segment.lane].append(
            [*position, segment.mini_batch, segment.attempt, names.index(segment.outcome), segment.pid, segment.piece]
        )
    kills = _by_lane(data.kills)
    lanes = []
    for number, lane in enumerate(data.lanes.lanes):
        entry: dict[str, Any] = {
            "name": f"{lane.node} {lane.label}",
            "kills": [
                [position, list(LETTERS).index(reason), n] for (position, reason), n in sorted(kills.get(number, {}).items())
            ],
        }
        if attempts.segments is not None:
            entry["tries"] = sorted(segments[number])
        else:
            entry["busy"] = _shares(data, attempts.busy[number], number, 100).tolist()
            entry["good"], entry["bad"] = attempts.succeeded[number].tolist(), attempts.failed[number].tolist()
        lanes.append(entry)
    return {
        "outcomes": [outcome(name) for name in names],
        "good": names.index(Outcome.SUCCEEDED) if Outcome.SUCCEEDED in names else -1,
        "reasons": [_reason(name) for name in LETTERS],
        "lanes": lanes,
    }


def _individual(data: Timeline, lane: int, segments: list[Segment]) -> list[Html]:
    """Return a lane with one shape per attempt: failed attempts are hatched, retries have a cap."""
    shapes = [_rectangle(data, span, "idle", 6, 8) for span in data.lifetimes if span.lane == lane]
    shapes += [_rectangle(data, span, "start", 4, 12) for span in data.starts if span.lane == lane]
    for segment in segments:
        kind = "ok" if segment.outcome == Outcome.SUCCEEDED else "bad"
        span = ProcessSpan(lane, segment.begins, segment.begins + segment.seconds)
        shapes.append(_rectangle(data, span, kind if not segment.piece else f"{kind} piece", 3, 14))
        if segment.attempt > 1 and not segment.piece:
            shapes.append(_rectangle(data, span, "again", 0, 2))
    return shapes


def _rectangle(data: Timeline, span: ProcessSpan, kind: str, y: int, height: int) -> Html:
    seconds = data.axis.seconds
    width = max((span.ends - span.begins) / seconds, _MIN_WIDTH)
    position = min(span.begins / seconds, 1 - width)
    return el("rect", x=percent(position), width=percent(width), y=y, height=height, class_=kind)


def _aggregated(data: Timeline, lane: int) -> list[Html]:
    """Return a lane with the shares of busy, starting and idle time, bottom up; failures hang from above."""
    attempts = data.attempts
    busy = attempts.busy[lane]
    starting = busy + data.starting[lane]
    idle = np.maximum(data.alive[lane] + data.starting[lane], starting)
    paths = [
        el("path", d=steps(_shares(data, seconds, lane, _HEIGHT).tolist(), _HEIGHT), class_=kind)
        for seconds, kind in ((idle, "idle"), (starting, "start-area"), (busy, "ok"))
        if seconds.any()
    ]
    done = attempts.succeeded[lane] + attempts.failed[lane]
    share = attempts.failed[lane] / np.maximum(done, 1)
    hanging = np.where(attempts.failed[lane] > 0, np.ceil(4 + 14 * share), 0).astype(np.int64)
    if hanging.any():
        paths.append(el("path", d=bars_from_above(hanging.tolist()), class_="hanging"))
    return [stretched(*paths, height=_HEIGHT)]


def _shares(data: Timeline, seconds: Floats, lane: int, whole: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return *seconds* as shares of the slots' time per bin, 0 to *whole*; a nonzero share is at least 1, to be visible."""
    share = seconds / (data.axis.bin_seconds * data.lanes.lanes[lane].slots)
    return np.where(seconds > 0, np.clip(np.rint(whole * share), 1, whole), 0).astype(np.int64)


def _by_lane(kills: Mapping[tuple[int, int, str], int]) -> dict[int, dict[tuple[int, str], int]]:
    by_lane: dict[int, dict[tuple[int, str], int]] = defaultdict(dict)
    for (lane, position, reason), number in kills.items():
        by_lane[lane][position, reason] = number
    return by_lane


def _has_letters(data: Timeline) -> bool:
    return len(data.kills) <= _MAX_LETTERS


def _letters(kills: Mapping[tuple[int, str], int]) -> list[Html]:
    """Return one letter for each bin and reason."""
    return [
        el("text", LETTERS[reason], x=percent((position + 0.5) / BINS), y=14, text_anchor="middle", class_="letter")
        for position, reason in sorted(kills)
    ]


def _ticks(kills: Mapping[tuple[int, str], int]) -> str:
    return "".join(f"M{position},{_HEIGHT}h1l-.5,-9z" for position in sorted({position for position, _ in kills}))


def _reason(name: str) -> str:
    return "a process could not start" if name == "start_failed" else f"process ended: {outcome(name)}"


def _summary(data: Timeline, lane: int, kills: Mapping[tuple[int, str], int]) -> str:
    """Return the description of a lane for screen readers."""
    attempts, whole = data.attempts, data.axis.seconds * data.lanes.lanes[lane].slots
    good, bad = int(attempts.succeeded[lane].sum()), int(attempts.failed[lane].sum())
    text = f"{data.lanes.lanes[lane].node} {data.lanes.lanes[lane].label}: {count(good, 'attempt')} succeeded, {bad} failed"
    text += f", busy {100 * float(attempts.busy[lane].sum()) / whole:.0f} %"
    return text + (f", {count(sum(kills.values()), 'process', 'processes')} killed or lost" if kills else "")


def _legend(data: Timeline) -> Html:
    if data.attempts.segments is not None:
        entries = [("ok", "succeeded"), ("bad", "failed"), ("again", "later attempt")]
    else:
        entries = [("ok", "share of time busy"), ("hanging", "failed attempts, from above")]
    if data.processes:
        entries += [("start" if data.attempts.segments is not None else "start-area", "import and init()"), ("idle", "idle")]
    if data.commands:
        entries.append(("ordered-key", "control command, numbered as in the table below"))
    if data.kills and not _has_letters(data):
        entries.append(("kill", "killed or lost process, from below"))
        return legend(*entries)
    reasons = {reason for _, _, reason in data.kills}
    letters = [
        el("li", el("b", letter, class_="letter"), " ", outcome(reason))
        for reason, letter in LETTERS.items()
        if reason in reasons
    ]
    return join(legend(*entries), el("ul", *letters, class_="legend") if letters else None)


def describe_lanes(data: Timeline) -> str:
    """Return what a lane represents and which data is missing."""
    lanes, attempts = data.lanes, data.attempts
    where = f"{count(lanes.total, 'slot')} on {count(lanes.nodes, 'node')}"
    kind = {"slot": "one lane each", "node": "too many for one lane each: a lane is a node with all its slots"}.get(
        lanes.detail,
        f"too many for one lane each: the {len(lanes.lanes) - 1} nodes with the most failures, then the fewest attempts,"
        " have a lane; the others share the last",
    )
    drawn = "every attempt is drawn" if attempts.segments is not None else f"a column is {duration(data.axis.bin_seconds)} wide"
    text = f"{where}, {kind}; {drawn}."
    if attempts.undated:
        text += f" {count(attempts.undated, 'attempt')} without a known time are not shown."
    if not data.processes:
        text += " Process logs are missing: idle time and starts are unknown."
    elif not data.has_all_processes:
        text += " There were too many processes to record them all: some idle time and starts are missing."
    return text


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
