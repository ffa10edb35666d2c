"""The lower sections of a report: durations, slowest attempts, inputs and configuration, executions."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from prefect_parallel_run._units import count, format_size
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.models import Outcome
from prefect_parallel_run.monitoring.report.attempts import Attempts, Column, columns, quantile
from prefect_parallel_run.monitoring.report.charts import distribution, legend
from prefect_parallel_run.monitoring.report.data import ReportData, SlowAttempt
from prefect_parallel_run.monitoring.report.format import duration, moment, outcome, tick
from prefect_parallel_run.monitoring.report.html import Html, el, join
from prefect_parallel_run.monitoring.report.tables import code_lines, listing, pairs
from prefect_parallel_run.runs.commands import describe_command

_MAX_PATHS = 12
_MAX_COMMANDS = 50
_SHOWN_SEPARATELY = ("paths", "name", "kind")
_EDGES = ((1e-5, "10 µs"), (1e-4, "100 µs"), (1e-3, "1 ms"), (1e-2, "10 ms"), (0.1, "100 ms"), (1.0, "1 s"), (10.0, "10 s"))
_LATER_EDGES = ((60.0, "1 min"), (600.0, "10 min"), (3600.0, "1 h"), (36_000.0, "10 h"), (864_000.0, "10 d"))


def durations(report: ReportData) -> Html | None:
    """Return the section about durations; None without attempts."""
    if report.timeline is None or not report.timeline.attempts.dated:
        return None
    attempts = report.timeline.attempts
    histogram = columns(attempts.durations)
    marks = _quantiles(attempts)
    return el(
        "section",
        el("h2", "Duration of run()"),
        el("p", f"{count(attempts.dated, 'attempt')}, on a logarithmic axis.", class_="quiet"),
        distribution(
            [(column.succeeded, column.failed) for column in histogram],
            [(_position(histogram, seconds), f"{name} {duration(seconds)}") for name, seconds in marks[1:4]],
            [(_position(histogram, seconds), label) for seconds, label in _edges(histogram)],
        ),
        legend(("ok", "succeeded"), ("bad", "failed")),
        _table(marks),
        _slowest(report.slowest),
        id="durations",
    )


def _table(marks: list[tuple[str, float]]) -> Html | None:
    names = [name for name, _ in marks]
    return (
        listing("Successful attempts", names, [[duration(seconds) for _, seconds in marks]], numbers=names) if marks else None
    )


def _quantiles(attempts: Attempts) -> list[tuple[str, float]]:
    good = attempts.durations[0]
    if not good.any():
        return []
    between = [(name, min(max(quantile(good, share), attempts.shortest), attempts.longest)) for name, share in _SHARES]
    return [("shortest", attempts.shortest), *between, ("longest", attempts.longest)]


_SHARES = (("median", 0.5), ("95 %", 0.95), ("99 %", 0.99))


def _position(histogram: list[Column], seconds: float) -> float:
    """Return the position of a duration between the first and the last column, 0 to 1."""
    low, high = math.log(histogram[0].begins), math.log(histogram[-1].stops)
    return min(max((math.log(max(seconds, 1e-9)) - low) / (high - low), 0.0), 1.0)


def _edges(histogram: list[Column]) -> list[tuple[float, str]]:
    """Return round durations on the axis; otherwise its left end."""
    low, high = histogram[0].begins, histogram[-1].stops
    inside = [edge for edge in (*_EDGES, *_LATER_EDGES) if low <= edge[0] <= high * 1.001]
    if len(inside) > 2:
        return inside
    steps = [factor * 10.0**power for power in range(-5, 7) for factor in (1, 2, 5)]
    return [(step, tick(step)) for step in steps if low * 0.999 <= step <= high * 1.001] or [(low, duration(low))]


def _slowest(slowest: list[SlowAttempt]) -> Html | None:
    heads = ("duration", "mini-batch", "attempt", "outcome", "items", "node", "input")
    rows = [
        (
            duration(slow.seconds),
            slow.mini_batch,
            slow.attempt or "some items",
            outcome(slow.outcome) if slow.outcome == Outcome.SUCCEEDED else f"✕ {outcome(slow.outcome)}",
            count(slow.items),
            slow.node,
            code_lines(slow.inputs),
        )
        for slow in slowest
    ]
    return listing("Slowest attempts", heads, rows, numbers=("duration", "mini-batch", "attempt", "items")) if rows else None


def configuration(report: ReportData) -> Html:
    """Return the section about inputs, arguments and configuration."""
    description = report.description
    first = description.get("config", {})
    arguments, variables = description.get("arguments", []), description.get("environment_variables", [])
    return el(
        "section",
        el("h2", "Inputs and configuration"),
        el("h3", "Inputs"),
        _plan(report),
        *(_input(dataset) for dataset in description.get("inputs", [])),
        pairs("Side inputs", description.get("side_inputs", {}).items()),
        el("h3", "Arguments"),
        el("p", el("code", " ".join(map(shlex.quote, arguments))) if arguments else "none"),
        pairs("Configuration", _settings(report.config, first)),
        el("p", "Environment variables: ", el("code", ", ".join(variables)), " (their values are not stored).")
        if variables
        else None,
        id="configuration",
    )


def _plan(report: ReportData) -> Html | None:
    if report.plan is None:
        return None
    counts = f"{count(report.plan.mini_batches, 'mini-batch', 'mini-batches')} of {count(report.plan.items, 'item')}"
    return el("p", f"{counts}, {format_size(report.plan.size)} of input.", class_="quiet")


def _input(dataset: Mapping[str, Any]) -> Html:
    paths = dataset.get("paths", [])
    more = len(paths) - _MAX_PATHS
    shown = [el("li", el("code", path)) for path in paths[:_MAX_PATHS]]
    options = {key: value for key, value in dataset.items() if key not in _SHOWN_SEPARATELY and value not in (None, [], False)}
    return join(
        el(
            "p",
            el("b", dataset.get("name") or "unnamed"),
            f", {dataset.get('kind', '')}",
            f": {_value(options)}" if options else "",
        ),
        el("ul", *shown, el("li", f"and {more:,} more") if more > 0 else None, class_="paths"),
    )


def _settings(config: Mapping[str, Any], first: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings that differ from the defaults or from the initial configuration."""
    fields = ParallelRunConfig.model_fields
    for name, value in config.items():
        default = fields[name].default if name in fields else None
        if name in first and first[name] != value and name not in ("entry_script", "source_directory"):
            yield name, f"{_value(value)} (initially {_value(first[name])})"
        elif value != default:
            yield name, _value(value)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def executions(report: ReportData) -> Html:
    """Return the section about versions, executions and control commands."""
    records = report.executions
    names = sorted({name for record in records for name in record.versions}, key=lambda name: (name != "python", name))
    rows = [(name, _changes([record.versions.get(name, "-") for record in records])) for name in names]
    return el(
        "section",
        el("h2", "Executions"),
        pairs("Versions in the flow process", rows) or el("p", "No versions were recorded.", class_="quiet"),
        _executions(report) if records else None,
        _commands(report) if report.commands else None,
        id="executions",
    )


def _changes(values: list[str]) -> str:
    """Return a value that may have changed between executions.

    >>> _changes(["1", "1", "2"])
    '1, then 2'
    """
    return ", then ".join(value for index, value in enumerate(values) if index == 0 or value != values[index - 1])


def _executions(report: ReportData) -> Html:
    heads = ("execution", "started", "duration", "status", "host")
    rows = [
        (
            record.number,
            moment(record.began),
            duration(record.ended - record.began) if record.ended else "",
            (record.status or "ended without a record") + (f": {record.reason[:300]}" if record.reason else ""),
            record.host,
        )
        for record in report.executions
    ]
    return listing("Executions", heads, rows, numbers=("execution",))


def _commands(report: ReportData) -> Html:
    """Return the control commands of the run; the timeline has the numbers of the applied ones."""
    heads = ("number", "time", "sent by", "command", "result")
    rows = [
        (
            number,
            moment(command.at) if command.at is not None else "",
            command.by or "",
            el("code", describe_command(command.what)),
            command.answer if command.applied_at is not None else f"refused: {command.answer}",
        )
        for number, command in list(enumerate(report.commands, 1))[-_MAX_COMMANDS:]
    ]
    more = len(report.commands) - len(rows)
    caption = "Control commands" + (f"; the first {more:,} are in the ledger's table controls" if more else "")
    return listing(caption, heads, rows, numbers=("number",))
