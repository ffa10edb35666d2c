"""The timeline: a lane for every slot (or node), with its tries one by one, or as the share of time it was busy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from prefect_parallel_run.monitoring.report.axis import BINS, Floats
from prefect_parallel_run.monitoring.report.charts import (
    bars_from_above,
    legend,
    order_lines,
    pause_lines,
    percent,
    steps,
    stretched,
    time_axis,
)
from prefect_parallel_run.monitoring.report.data import ProcessSpan, Timeline
from prefect_parallel_run.monitoring.report.format import duration, outcome
from prefect_parallel_run.monitoring.report.html import Html, el, join
from prefect_parallel_run.monitoring.report.tries import Segment
from prefect_parallel_run.units import count

_HEIGHT = 20  #: of a lane, px, and of its inner drawing
_MOST_LETTERS = 600  #: kills that are written as letters; more would cover each other
_NARROWEST = 0.0012  #: of the width: so that a short try can be seen
LETTERS = {"timed_out": "T", "out_of_memory": "M", "died": "D", "lost": "L", "start_failed": "S"}


def timeline(shown: Timeline) -> Html:
    """Return the lanes, the axis under them and what the shapes stand for."""
    by_lane: dict[int, list[Segment]] = defaultdict(list)
    for segment in shown.tries.segments or ():
        by_lane[segment.lane].append(segment)
    kills = _by_lane(shown.kills)
    has_letters = _has_letters(shown)
    rows = []
    for number, lane in enumerate(shown.lanes.lanes):
        shapes = _one_by_one(shown, number, by_lane[number]) if shown.tries.segments is not None else _as_shares(shown, number)
        ends = kills.get(number, {})
        shapes += _letters(ends) if has_letters else [stretched(el("path", d=_ticks(ends), class_="kill"), height=_HEIGHT)]
        shapes += pause_lines(shown.axis) + order_lines(shown.axis, shown.orders)
        drawing = el("svg", *shapes, width="100%", height=_HEIGHT, role="img", aria_label=_summary(shown, number, ends))
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
    return join(_legend(shown), lanes, time_axis(shown.axis, shown.orders))


def payload(shown: Timeline) -> dict[str, Any]:
    """Return the figures of the lanes, for the script that tells them."""
    tries = shown.tries
    names = sorted(tries.outcomes)
    segments: dict[int, list[list[float]]] = defaultdict(list)
    for segment in tries.segments or ():
        place = [round(segment.begins, 4), round(segment.seconds, 5)]
        segments[segment.lane].append(
            [*place, segment.mini_batch, segment.attempt, names.index(segment.outcome), segment.pid, segment.piece]
        )
    kills = _by_lane(shown.kills)
    lanes = []
    for number, lane in enumerate(shown.lanes.lanes):
        found: dict[str, Any] = {
            "name": f"{lane.node} {lane.label}",
            "kills": [[place, list(LETTERS).index(reason), n] for (place, reason), n in sorted(kills.get(number, {}).items())],
        }
        if tries.segments is not None:
            found["tries"] = sorted(segments[number])
        else:
            found["busy"] = _shares(shown, tries.busy[number], number, 100).tolist()
            found["good"], found["bad"] = tries.succeeded[number].tolist(), tries.failed[number].tolist()
        lanes.append(found)
    return {
        "outcomes": [outcome(name) for name in names],
        "good": names.index("succeeded") if "succeeded" in names else -1,
        "reasons": [_reason(name) for name in LETTERS],
        "lanes": lanes,
    }


def _one_by_one(shown: Timeline, lane: int, segments: list[Segment]) -> list[Html]:
    """Return a lane with a shape for every try: those that failed are hatched, those that were tried before have a cap."""
    shapes = [_stretch(shown, life, "idle", 6, 8) for life in shown.lives if life.lane == lane]
    shapes += [_stretch(shown, life, "start", 4, 12) for life in shown.starts if life.lane == lane]
    for segment in segments:
        kind = "ok" if segment.outcome == "succeeded" else "bad"
        life = ProcessSpan(lane, segment.begins, segment.begins + segment.seconds)
        shapes.append(_stretch(shown, life, kind if not segment.piece else f"{kind} piece", 3, 14))
        if segment.attempt > 1 and not segment.piece:
            shapes.append(_stretch(shown, life, "again", 0, 2))
    return shapes


def _stretch(shown: Timeline, life: ProcessSpan, kind: str, y: int, height: int) -> Html:
    seconds = shown.axis.seconds
    width = max((life.ends - life.begins) / seconds, _NARROWEST)
    place = min(life.begins / seconds, 1 - width)
    return el("rect", x=percent(place), width=percent(width), y=y, height=height, class_=kind)


def _as_shares(shown: Timeline, lane: int) -> list[Html]:
    """Return a lane with the share of time it was busy, starting and idle, bottom up; failures hang from above."""
    tries = shown.tries
    busy = tries.busy[lane]
    starting = busy + shown.starting[lane]
    idle = np.maximum(shown.alive[lane] + shown.starting[lane], starting)
    paths = [
        el("path", d=steps(_shares(shown, seconds, lane, _HEIGHT).tolist(), _HEIGHT), class_=kind)
        for seconds, kind in ((idle, "idle"), (starting, "start-area"), (busy, "ok"))
        if seconds.any()
    ]
    done = tries.succeeded[lane] + tries.failed[lane]
    share = tries.failed[lane] / np.maximum(done, 1)
    hanging = np.where(tries.failed[lane] > 0, np.ceil(4 + 14 * share), 0).astype(np.int64)
    if hanging.any():
        paths.append(el("path", d=bars_from_above(hanging.tolist()), class_="hanging"))
    return [stretched(*paths, height=_HEIGHT)]


def _shares(shown: Timeline, seconds: Floats, lane: int, whole: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return seconds per bin as the share of what all slots of the lane have, from 0 to *whole*; a little is never nothing."""
    share = seconds / (shown.axis.bin_seconds * shown.lanes.lanes[lane].slots)
    return np.where(seconds > 0, np.clip(np.rint(whole * share), 1, whole), 0).astype(np.int64)


def _by_lane(kills: Mapping[tuple[int, int, str], int]) -> dict[int, dict[tuple[int, str], int]]:
    found: dict[int, dict[tuple[int, str], int]] = defaultdict(dict)
    for (lane, place, reason), number in kills.items():
        found[lane][place, reason] = number
    return found


def _has_letters(shown: Timeline) -> bool:
    return len(shown.kills) <= _MOST_LETTERS


def _letters(kills: Mapping[tuple[int, str], int]) -> list[Html]:
    """Return a letter for every kind of end in a bin."""
    return [
        el("text", LETTERS[reason], x=percent((place + 0.5) / BINS), y=14, text_anchor="middle", class_="letter")
        for place, reason in sorted(kills)
    ]


def _ticks(kills: Mapping[tuple[int, str], int]) -> str:
    return "".join(f"M{place},{_HEIGHT}h1l-.5,-9z" for place in sorted({place for place, _ in kills}))


def _reason(name: str) -> str:
    return "a process could not start" if name == "start_failed" else f"process ended: {outcome(name)}"


def _summary(shown: Timeline, lane: int, kills: Mapping[tuple[int, str], int]) -> str:
    """Return a lane in words."""
    tries, whole = shown.tries, shown.axis.seconds * shown.lanes.lanes[lane].slots
    good, bad = int(tries.succeeded[lane].sum()), int(tries.failed[lane].sum())
    words = (
        f"{shown.lanes.lanes[lane].node} {shown.lanes.lanes[lane].label}: {count(good, 'try', 'tries')} succeeded, {bad} failed"
    )
    words += f", busy {100 * float(tries.busy[lane].sum()) / whole:.0f} %"
    return words + (f", {count(sum(kills.values()), 'process', 'processes')} killed or lost" if kills else "")


def _legend(shown: Timeline) -> Html:
    if shown.tries.segments is not None:
        entries = [("ok", "succeeded"), ("bad", "failed"), ("again", "a later try")]
    else:
        entries = [("ok", "share of time busy"), ("hanging", "failed tries, from above")]
    if shown.processes:
        entries += [("start" if shown.tries.segments is not None else "start-area", "import and init()"), ("idle", "idle")]
    if shown.orders:
        entries.append(("ordered-key", "a person ordered something; the numbers are those of the table below"))
    if shown.kills and not _has_letters(shown):
        entries.append(("kill", "a process was killed or lost, from below"))
        return legend(*entries)
    reasons = {reason for _, _, reason in shown.kills}
    letters = [
        el("li", el("b", letter, class_="letter"), " ", outcome(reason))
        for reason, letter in LETTERS.items()
        if reason in reasons
    ]
    return join(legend(*entries), el("ul", *letters, class_="legend") if letters else None)


def lane_words(shown: Timeline) -> str:
    """Return what a lane is, and what is not to be seen."""
    lanes, tries = shown.lanes, shown.tries
    where = f"{count(lanes.total, 'slot')} on {count(lanes.nodes, 'node')}"
    kind = {"slot": "one lane each", "node": "too many for one lane each: a lane is a node with all its slots"}.get(
        lanes.detail,
        f"too many for one lane each: the {len(lanes.lanes) - 1} nodes with the most failures, then the fewest tries, have a"
        " lane; the others share the last",
    )
    drawn = "every try is drawn" if tries.segments is not None else f"a column is {duration(shown.axis.bin_seconds)} wide"
    words = f"{where}, {kind}; {drawn}."
    if tries.undated:
        words += f" {count(tries.undated, 'try', 'tries')} without a known time are left out."
    if not shown.processes:
        words += " The nodes' process logs are not there: idle time and starts are not known."
    elif not shown.has_all_processes:
        words += " There were too many processes to write down or look at all: some idle time and starts are missing."
    return words
