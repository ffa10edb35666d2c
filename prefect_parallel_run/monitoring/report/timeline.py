"""The timeline: one lane per slot or node, with individual attempts or with the share of busy time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from prefect_parallel_run._units import count
from prefect_parallel_run.models import Outcome
from prefect_parallel_run.monitoring.report.attempts import Segment
from prefect_parallel_run.monitoring.report.axis import BINS, Floats
from prefect_parallel_run.monitoring.report.charts import (
    bars_from_above,
    command_lines,
    legend,
    pause_lines,
    percent,
    steps,
    stretched,
    time_axis,
)
from prefect_parallel_run.monitoring.report.data import ProcessSpan, Timeline
from prefect_parallel_run.monitoring.report.format import duration, outcome
from prefect_parallel_run.monitoring.report.html import Html, el, join

_HEIGHT = 20  #: px, of a lane and its inner drawing
_MAX_LETTERS = 600  #: kills to show as letters; more would overlap
_MIN_WIDTH = 0.0012  #: share of the width, so that a short attempt is visible
LETTERS = {Outcome.TIMED_OUT: "T", Outcome.OUT_OF_MEMORY: "M", Outcome.DIED: "D", Outcome.LOST: "L", "start_failed": "S"}


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
