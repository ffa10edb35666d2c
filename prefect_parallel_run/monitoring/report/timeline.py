"""The section about time: one lane per slot or node, and below it on the same axis throughput, memory, CPU and the forecast.

A lane shows individual attempts or, for many attempts, the share of busy time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from prefect_parallel_run._units import count
from prefect_parallel_run.models import Outcome
from prefect_parallel_run.monitoring.report.attempts import Segment
from prefect_parallel_run.monitoring.report.axis import BINS, Axis, Floats
from prefect_parallel_run.monitoring.report.charts import (
    Scale,
    bars_from_above,
    columns_over_time,
    command_lines,
    curve_shapes,
    drawing,
    element,
    most_of,
    pause_lines,
    percent,
    steps,
    stretched,
    time_axis,
)
from prefect_parallel_run.monitoring.report.data import ProcessSpan, ReportData, Timeline
from prefect_parallel_run.monitoring.report.format import duration, outcome, rate
from prefect_parallel_run.monitoring.report.log_readers import Curve, Progress, Resources

_HEIGHT = 20  #: px, of a lane and its inner drawing
_MAX_LETTERS = 600  #: kills to show as letters; more would overlap
_MIN_WIDTH = 0.0012  #: share of the width, so that a short attempt is visible
_MIN_PER_COLUMN = 12  #: attempts on average; with fewer, columns vary by chance
LETTERS = {Outcome.TIMED_OUT: "T", Outcome.OUT_OF_MEMORY: "M", Outcome.DIED: "D", Outcome.LOST: "L", "start_failed": "S"}


class DrawnLane(NamedTuple):
    """One lane."""

    node: str
    label: str
    drawing: Markup


class Track(NamedTuple):
    """A plot below the lanes."""

    key: str  #: name in the data for the script
    title: str
    labels: Markup  #: values at the left edge
    plot: Markup
    series: list[tuple[str, str, list[float | None]]]  #: name, unit and value per bin, for the tooltips
    note: str = ""


class TimeSection(NamedTuple):
    """The content of the section."""

    description: str
    legend: list[tuple[str, str]]  #: CSS classes and labels
    letters: list[tuple[str, str]]  #: letters and their meanings
    lanes: list[DrawnLane]
    axis: Markup
    tracks: list[Track]
    figures: dict[str, Any]  #: the data behind the shapes, for the script


def over_time(report: ReportData) -> TimeSection | None:
    """Return the section; None without attempts and processes."""
    data = report.timeline
    if data is None:
        return None
    tracks = list(_tracks(report, data))
    figures = {
        "seconds": data.axis.seconds,
        "bins": BINS,
        "spans": data.axis.spans,
        "charts": {track.key: track.series for track in tracks},
        "lanes": _lane_figures(data),
    }
    lanes, axis = list(_drawn_lanes(data)), time_axis(data.axis, data.commands)
    return TimeSection(_describe(data), _legend(data), _letters_used(data), lanes, axis, tracks, figures)


def _drawn_lanes(data: Timeline) -> Iterator[DrawnLane]:
    by_lane: dict[int, list[Segment]] = defaultdict(list)
    for segment in data.attempts.segments or ():
        by_lane[segment.lane].append(segment)
    kills = _by_lane(data.kills)
    for number, lane in enumerate(data.lanes.lanes):
        shapes = _individual(data, number, by_lane[number]) if data.attempts.segments is not None else _aggregated(data, number)
        ends = kills.get(number, {})
        if _has_letters(data):
            shapes += _letters(ends)
        else:
            shapes.append(stretched(element("path", d=_ticks(ends), class_="kill"), height=_HEIGHT))
        shapes += pause_lines(data.axis) + command_lines(data.axis, data.commands)
        yield DrawnLane(lane.node, lane.label, drawing(shapes, _HEIGHT, _summary(data, number, ends)))


def _lane_figures(data: Timeline) -> dict[str, Any]:
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


def _individual(data: Timeline, lane: int, segments: list[Segment]) -> list[Markup]:
    """Return a lane with one shape per attempt: failed attempts are hatched, retries have a cap."""
    shapes = [_rectangle(data, span, "idle", 6, 8) for span in data.processes.lifetimes if span.lane == lane]
    shapes += [_rectangle(data, span, "start", 4, 12) for span in data.processes.starts if span.lane == lane]
    for segment in segments:
        kind = "ok" if segment.outcome == Outcome.SUCCEEDED else "bad"
        span = ProcessSpan(lane, segment.begins, segment.begins + segment.seconds)
        shapes.append(_rectangle(data, span, kind if not segment.piece else f"{kind} piece", 3, 14))
        if segment.attempt > 1 and not segment.piece:
            shapes.append(_rectangle(data, span, "again", 0, 2))
    return shapes


def _rectangle(data: Timeline, span: ProcessSpan, kind: str, y: int, height: int) -> Markup:
    seconds = data.axis.seconds
    width = max((span.ends - span.begins) / seconds, _MIN_WIDTH)
    position = min(span.begins / seconds, 1 - width)
    return element("rect", x=percent(position), width=percent(width), y=y, height=height, class_=kind)


def _aggregated(data: Timeline, lane: int) -> list[Markup]:
    """Return a lane with the shares of busy, starting and idle time, from the bottom up; failures hang from the upper edge."""
    attempts = data.attempts
    busy = attempts.busy[lane]
    starting = busy + data.processes.starting[lane]
    idle = np.maximum(data.processes.ready[lane] + data.processes.starting[lane], starting)
    paths = [
        element("path", d=steps(_shares(data, seconds, lane, _HEIGHT).tolist(), _HEIGHT), class_=kind)
        for seconds, kind in ((idle, "idle"), (starting, "start-area"), (busy, "ok"))
        if seconds.any()
    ]
    done = attempts.succeeded[lane] + attempts.failed[lane]
    share = attempts.failed[lane] / np.maximum(done, 1)
    hanging = np.where(attempts.failed[lane] > 0, np.ceil(4 + 14 * share), 0).astype(np.int64)
    if hanging.any():
        paths.append(element("path", d=bars_from_above(hanging.tolist()), class_="hanging"))
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


def _letters(kills: Mapping[tuple[int, str], int]) -> list[Markup]:
    """Return one letter for each bin and reason."""
    return [
        element("text", LETTERS[reason], x=percent((position + 0.5) / BINS), y=14, text_anchor="middle", class_="letter")
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


def _legend(data: Timeline) -> list[tuple[str, str]]:
    if data.attempts.segments is not None:
        entries = [("ok", "succeeded"), ("bad", "failed"), ("again", "later attempt")]
    else:
        entries = [("ok", "share of time busy"), ("hanging", "failed attempts, from above")]
    if data.processes.count:
        entries += [("start" if data.attempts.segments is not None else "start-area", "import and init()"), ("idle", "idle")]
    if data.commands:
        entries.append(("ordered-key", "control command, numbered as in the table below"))
    if not _has_letters(data):
        entries.append(("kill", "killed or lost process, from below"))
    return entries


def _letters_used(data: Timeline) -> list[tuple[str, str]]:
    reasons = {reason for _, _, reason in data.kills} if _has_letters(data) else set()
    return [(letter, outcome(reason)) for reason, letter in LETTERS.items() if reason in reasons]


def _describe(data: Timeline) -> str:
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
    if data.processes.threads:
        text += f" Threads per process: {', '.join(data.processes.threads)}."
    if not data.processes.count:
        text += " Process logs are missing: idle time and starts are unknown."
    elif not data.processes.is_complete:
        text += " There were too many processes to record them all: some idle time and starts are missing."
    return text


def _tracks(report: ReportData, data: Timeline) -> Iterator[Track]:
    yield _throughput(data)
    if report.resources is not None:
        yield from _resources(data.axis, report.resources)
    if (forecast := _eta(report, data.axis)) is not None:
        yield forecast


def _throughput(data: Timeline) -> Track:
    attempts, total = data.attempts, data.attempts.dated
    width = next((w for w in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20) if total * w >= _MIN_PER_COLUMN * BINS), 24)
    seconds = data.axis.bin_seconds * width
    good, bad = (
        counts.sum(axis=0).reshape(-1, width).sum(axis=1) / seconds for counts in (attempts.succeeded, attempts.failed)
    )
    scale = Scale(most_of(good + bad) or 1.0, "rate")
    title = f"Finished attempts per second, in columns of {duration(seconds)}"
    label = f"Throughput: {rate(float(good.mean()))} succeeded on average, at most {rate(float(good.max()))}."
    plot = scale.plot(columns_over_time(good, bad, width, scale.most), label)
    series = [("succeeded", "rate", _values(np.repeat(good, width))), ("failed", "rate", _values(np.repeat(bad, width)))]
    return Track("throughput", title, scale.labels(), plot, series)


def _resources(axis: Axis, resources: Resources) -> Iterator[Track]:
    several = len(resources.peaks) > 1
    suffix = f", mean and range of {count(len(resources.peaks), 'node')}" if several else ""
    if several and resources.nodes > len(resources.peaks):
        suffix += f" out of {count(resources.nodes)}"
    whole, processes = Scale(100.0, "percent"), Scale(1.1 * max(most_of(resources.processes_memory.high), 1.0), "bytes")
    yield _curve(axis, "memory", f"Used memory of the machine, percent{suffix}", resources.memory, whole)
    title = f"Memory of the processes{' per node' if several else ''}{suffix}"
    yield _curve(axis, "processes", title, resources.processes_memory, processes)
    yield _curve(axis, "cpu", f"CPU of the machine, percent{suffix}", resources.cpu, whole)


def _curve(axis: Axis, key: str, title: str, curve: Curve, scale: Scale) -> Track:
    mean, most = scale.write(float(np.nanmean(curve.mean))), scale.write(most_of(curve.high))
    label = f"{title}: {mean} on average, at most {most}."
    series = [("mean" if curve.is_band else "in use", scale.unit, _values(curve.mean))]
    if curve.is_band:
        series += [("lowest node", scale.unit, _values(curve.low)), ("highest node", scale.unit, _values(curve.high))]
    plot = scale.plot([*curve_shapes(axis, curve, scale.most), *pause_lines(axis)], label)
    return Track(key, title, scale.labels(), plot, series)


def _eta(report: ReportData, axis: Axis) -> Track | None:
    """Return the forecasts of the last execution compared with its actual duration."""
    if not report.progress:
        return None
    number = max(report.progress)
    lines = [line for line in report.progress[number] if line.remaining_seconds is not None]
    if not lines:
        return None
    began, last = report.progress[number][0].time, report.progress[number][-1]
    forecast = _in_bins(axis, lines, began)
    actual = last.time - began if last.finished >= last.planned else None
    scale = Scale(1.1 * max(min(most_of(forecast), 3 * actual if actual else np.inf), actual or 0.0, 0.1), "seconds")
    clipped = np.minimum(forecast, scale.most)
    shapes = curve_shapes(axis, Curve(clipped, clipped, clipped), scale.most)
    title = "Forecast of the duration of the last execution" if report.history.count > 1 else "Forecast of the duration"
    if actual:
        title += f"; dashed: the actual duration, {duration(actual)}"
        shapes.append(scale.level(actual))
    note = _accuracy(lines, began, actual) if actual else "The execution did not finish, so the forecast cannot be compared."
    plot = scale.plot([*shapes, *pause_lines(axis)], f"{title}. {note}")
    return Track("eta", title, scale.labels(), plot, [("forecast", "seconds", _values(forecast))], note)


def _in_bins(axis: Axis, lines: list[Progress], began: float) -> Floats:
    """Return the last forecast of the duration in each bin; NaN without one."""
    forecast = np.full(BINS, np.nan)
    bins = axis.bins(axis.positions([line.time for line in lines]))
    for position, line in zip(bins.tolist(), lines, strict=True):
        forecast[position] = line.time - began + (line.remaining_seconds or 0.0)
    return forecast


def _accuracy(lines: list[Progress], began: float, actual: float) -> str:
    """Return a note: from when on the forecasts were within 10 % of the actual duration."""
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
