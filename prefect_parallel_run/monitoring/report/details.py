"""The rest of a report: how long tries took, which took longest, what was asked for, and with which versions it ran."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.monitoring.report.bars import distribution
from prefect_parallel_run.monitoring.report.charts import legend
from prefect_parallel_run.monitoring.report.data import Facts, Slow
from prefect_parallel_run.monitoring.report.format import duration, moment, outcome, tick
from prefect_parallel_run.monitoring.report.html import Html, el, join
from prefect_parallel_run.monitoring.report.tables import code_lines, listing, pairs
from prefect_parallel_run.monitoring.report.tries import Column, Tries, columns, quantile
from prefect_parallel_run.runs.commands import in_words
from prefect_parallel_run.units import count, format_size

_MOST_PATHS = 12
_MOST_ORDERS = 50
_SHOWN_APART = ("paths", "name", "kind")
_EDGES = ((1e-5, "10 µs"), (1e-4, "100 µs"), (1e-3, "1 ms"), (1e-2, "10 ms"), (0.1, "100 ms"), (1.0, "1 s"), (10.0, "10 s"))
_LATER_EDGES = ((60.0, "1 min"), (600.0, "10 min"), (3600.0, "1 h"), (36_000.0, "10 h"), (864_000.0, "10 d"))


def durations(facts: Facts) -> Html | None:
    """Return how long tries took, or None when none has been."""
    if facts.timeline is None or not facts.timeline.tries.dated:
        return None
    tries = facts.timeline.tries
    found = columns(tries.durations)
    marks = _quantiles(tries)
    return el(
        "section",
        el("h2", "How long run() took"),
        el("p", f"{count(tries.dated, 'try', 'tries')}, on a logarithmic axis.", class_="quiet"),
        distribution(
            [(column.succeeded, column.failed) for column in found],
            [(_place(found, seconds), f"{name} {duration(seconds)}") for name, seconds in marks[1:4]],
            [(_place(found, seconds), words) for seconds, words in _edges(found)],
        ),
        legend(("ok", "succeeded"), ("bad", "failed")),
        _table(marks),
        _slowest(facts.slowest),
        id="durations",
    )


def _table(marks: list[tuple[str, float]]) -> Html | None:
    names = [name for name, _ in marks]
    return (
        listing("Tries that succeeded, to 1 %", names, [[duration(seconds) for _, seconds in marks]], numbers=names)
        if marks
        else None
    )


def _quantiles(tries: Tries) -> list[tuple[str, float]]:
    good = tries.durations[0]
    if not good.any():
        return []
    between = [(name, min(max(quantile(good, share), tries.shortest), tries.longest)) for name, share in _SHARES]
    return [("shortest", tries.shortest), *between, ("longest", tries.longest)]


_SHARES = (("median", 0.5), ("95 %", 0.95), ("99 %", 0.99))


def _place(found: list[Column], seconds: float) -> float:
    """Return where a duration lies between the first column and the last, 0 to 1."""
    low, high = math.log(found[0].begins), math.log(found[-1].stops)
    return min(max((math.log(max(seconds, 1e-9)) - low) / (high - low), 0.0), 1.0)


def _edges(found: list[Column]) -> list[tuple[float, str]]:
    """Return round durations on the axis; its ends, where there is none."""
    low, high = found[0].begins, found[-1].stops
    inside = [edge for edge in (*_EDGES, *_LATER_EDGES) if low <= edge[0] <= high * 1.001]
    if len(inside) > 2:
        return inside
    steps = [factor * 10.0**power for power in range(-5, 7) for factor in (1, 2, 5)]
    return [(step, tick(step)) for step in steps if low * 0.999 <= step <= high * 1.001] or [(low, duration(low))]


def _slowest(slowest: list[Slow]) -> Html | None:
    heads = ("took", "mini-batch", "try", "how it ended", "items", "on", "what was in it")
    rows = [
        (
            duration(slow.seconds),
            slow.mini_batch,
            slow.attempt or "apart",
            outcome(slow.outcome) if slow.outcome == "succeeded" else f"✕ {outcome(slow.outcome)}",
            count(slow.items),
            slow.node,
            code_lines(slow.places),
        )
        for slow in slowest
    ]
    return listing("The tries that took longest", heads, rows, numbers=("took", "mini-batch", "try", "items")) if rows else None


def asked_for(facts: Facts) -> Html:
    """Return configuration, inputs and arguments."""
    description = facts.description
    first = description.get("config", {})
    arguments, variables = description.get("arguments", []), description.get("environment_variables", [])
    return el(
        "section",
        el("h2", "What was asked for"),
        el("h3", "Inputs"),
        _plan(facts),
        *(_input(given) for given in description.get("inputs", [])),
        pairs("Side inputs", description.get("side_inputs", {}).items()),
        el("h3", "Arguments"),
        el("p", el("code", " ".join(map(shlex.quote, arguments))) if arguments else "none"),
        pairs("Configuration", _settings(facts.config, first)),
        el("p", "Environment variables: ", el("code", ", ".join(variables)), " (their values are not kept).")
        if variables
        else None,
        id="asked-for",
    )


def _plan(facts: Facts) -> Html | None:
    if facts.plan is None:
        return None
    words = f"{count(facts.plan.mini_batches, 'mini-batch', 'mini-batches')} of {count(facts.plan.items, 'item')}"
    return el("p", f"{words}, {format_size(facts.plan.size)} of source.", class_="quiet")


def _input(given: Mapping[str, Any]) -> Html:
    paths = given.get("paths", [])
    more = len(paths) - _MOST_PATHS
    shown = [el("li", el("code", path)) for path in paths[:_MOST_PATHS]]
    others = {key: value for key, value in given.items() if key not in _SHOWN_APART and value not in (None, [], False)}
    return join(
        el("p", el("b", given.get("name") or "unnamed"), f", {given.get('kind', '')}", f": {_value(others)}" if others else ""),
        el("ul", *shown, el("li", f"and {more:,} more") if more > 0 else None, class_="paths"),
    )


def _settings(config: Mapping[str, Any], first: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings that are not the defaults, and those that were others at first."""
    fields = ParallelRunConfig.model_fields
    for name, value in config.items():
        default = fields[name].default if name in fields else None
        if name in first and first[name] != value and name not in ("entry_script", "source_directory"):
            yield name, f"{_value(value)} (at first {_value(first[name])})"
        elif value != default:
            yield name, _value(value)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def made_with(facts: Facts) -> Html:
    """Return versions, and when the run was driven."""
    drives = facts.drives
    names = sorted({name for drive in drives for name in drive.versions}, key=lambda name: (name != "python", name))
    rows = [(name, _changes([drive.versions.get(name, "-") for drive in drives])) for name in names]
    return el(
        "section",
        el("h2", "How it was run"),
        pairs("Versions in the flow process", rows) or el("p", "Its versions were not written down.", class_="quiet"),
        _drives(facts) if drives else None,
        _orders(facts) if facts.orders else None,
        id="made-with",
    )


def _changes(values: list[str]) -> str:
    """Return a value that may have changed from drive to drive.

    >>> _changes(["1", "1", "2"])
    '1, then 2'
    """
    return ", then ".join(value for place, value in enumerate(values) if place == 0 or value != values[place - 1])


def _drives(facts: Facts) -> Html:
    heads = ("drive", "began", "took", "how it ended", "on host")
    rows = [
        (
            drive.number,
            moment(drive.began),
            duration(drive.ended - drive.began) if drive.ended else "",
            (drive.status or "had no time to say") + (f": {drive.reason[:300]}" if drive.reason else ""),
            drive.host,
        )
        for drive in facts.drives
    ]
    return listing("Drives", heads, rows, numbers=("drive",))


def _orders(facts: Facts) -> Html:
    """Return what people ordered while the run went on; the timeline has the numbers of those that were followed."""
    heads = ("number", "at", "by", "order", "what came of it")
    rows = [
        (
            number,
            moment(order.at) if order.at is not None else "",
            order.by or "",
            el("code", in_words(order.what)),
            order.answer if order.applied_at is not None else f"refused: {order.answer}",
        )
        for number, order in list(enumerate(facts.orders, 1))[-_MOST_ORDERS:]
    ]
    more = len(facts.orders) - len(rows)
    words = "Ordered while it went on" + (f"; the first {more:,} are in the ledger's table controls" if more else "")
    return listing(words, heads, rows, numbers=("number",))
