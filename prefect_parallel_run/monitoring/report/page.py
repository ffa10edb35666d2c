"""The page of a report: one self-contained document, rendered from the files in ``templates``.

All data of the run is escaped. A content security policy in the page allows its own style and script by their hashes and
nothing else: the page cannot send a request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from prefect_parallel_run._units import MINI_BATCHES, count, format_size
from prefect_parallel_run.child.failure import shorten
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.models import FailureLimits, Outcome
from prefect_parallel_run.monitoring.logs import escape_control_chars
from prefect_parallel_run.monitoring.report.attempts import Column, Durations, columns
from prefect_parallel_run.monitoring.report.charts import distribution, percent, stacked_bar
from prefect_parallel_run.monitoring.report.data import ReportData
from prefect_parallel_run.monitoring.report.format import STATUS, duration, moment, outcome, rate, share_label, tick
from prefect_parallel_run.monitoring.report.log_readers import Resources
from prefect_parallel_run.monitoring.report.timeline import over_time
from prefect_parallel_run.runs.commands import describe_command

_TEMPLATES = Path(__file__).with_name("templates")
_PARTS = (("ok", "succeeded"), ("bad", "failed"), ("waiting", "awaiting retry"), ("rest", "not reached"))
_QUANTILES = (("median", 0.5), ("95 %", 0.95), ("99 %", 0.99))
_EDGES = (
    *((1e-5, "10 µs"), (1e-4, "100 µs"), (1e-3, "1 ms"), (1e-2, "10 ms"), (0.1, "100 ms"), (1.0, "1 s"), (10.0, "10 s")),
    *((60.0, "1 min"), (600.0, "10 min"), (3600.0, "1 h"), (36_000.0, "10 h"), (864_000.0, "10 d")),
)
_SHOWN_SEPARATELY = ("paths", "name", "kind")  #: fields of an input
_MAX_COMMANDS, _MAX_NODES, _MAX_PEAKS = 50, 8, 12


def page(report: ReportData, now: float) -> str:
    """Return the report of a run as HTML; *now* is the current Unix time."""
    style, script = template_text("page.css"), template_text("page.js")
    template = _environment().get_template("page.html.j2")
    return template.render(
        now=now,
        style=style,
        script=script,
        policy=_policy(style, script),
        report=report,
        timeline=over_time(report),
        **_head(report),
        **_results(report),
        **_durations(report),
        **_configuration(report),
        causes=report.failures.causes,
        failed=_failed(report),
        peaks=None if report.resources is None else _peaks(report.resources),
        executions=_executions(report),
        commands=_commands(report),
        versions=_versions(report),
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.globals |= {"count": count, "moment": moment, "outcome": outcome, "percent": percent, "size": format_size}
    environment.globals |= {"node_names": _node_names, "plain": _plain, "shortened": shorten}
    return environment


def template_text(name: str) -> str:
    """Return the text of a file in ``templates``."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _printable(value: object) -> object:
    """Return a value that a template prints, before it is escaped."""
    return value if isinstance(value, Markup) else escape_control_chars(str(value))


def _policy(style: str, script: str) -> str:
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    sources = "style-src 'sha256-{}'; script-src 'sha256-{}'".format(*hashes)
    return f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"


class Table(NamedTuple):
    """A table of a report; a cell that is a list has one line of code for each entry."""

    caption: str
    heads: Sequence[str]
    rows: Collection[Sequence[object]]
    numbers: Sequence[str] = ()  #: names of the columns to align as numbers


class Figure(NamedTuple):
    """One of the key figures."""

    name: str
    value: str
    note: str


def _head(report: ReportData) -> dict[str, Any]:
    symbol, label = STATUS.get(report.run.status, ("?", report.run.status))
    kind = report.run.status if report.run.status in STATUS else "planned"
    failed = report.tally.failed_items
    tolerated = f"{count(failed, 'item')} failed, as the limits allow." if failed and report.run.status == "succeeded" else ""
    locations = [("run directory", os.fspath(report.run.directory.path))]
    if report.run.receipt is not None and report.run.receipt.get("output_file"):
        locations.insert(0, ("result", report.run.receipt["output_file"]))
    elif report.run.description.get("output"):
        locations.insert(0, ("output", report.run.description["output"]))
    return {
        "step": report.run.description.get("step", report.run.directory.run_id),
        "status": {"symbol": symbol, "label": label, "kind": kind, "note": report.run.reason or tolerated},
        "description": report.run.first_config.get("description"),
        "key_figures": list(_key_figures(report)),
        "locations": locations,
    }


def _key_figures(report: ReportData) -> Iterator[Figure]:
    tally, seconds = report.tally, _execution_seconds(report)
    if seconds is not None:
        yield Figure("duration", duration(seconds), _phases(report))
    yield Figure("mini-batches", count(tally.finished), f"of {count(tally.planned)} finished")
    yield Figure("items", count(tally.succeeded_items), f"of {count(tally.items)} succeeded")
    yield Figure("rows", count(tally.rows), _result_size(report.run.receipt))
    if report.timeline is not None and seconds:
        lanes, busy = report.timeline.lanes, float(report.timeline.attempts.busy.sum())
        whole = report.timeline.axis.seconds * lanes.total  # 0 if the run was cancelled before its first attempt ended
        share = f"; {100 * busy / whole:.0f} % of their time in run()" if whole else ""
        yield Figure(
            "throughput", rate(tally.succeeded / seconds), f"mini-batches; {rate(tally.succeeded_items / seconds)} items"
        )
        yield Figure("ran on", count(lanes.total, "slot"), f"on {count(lanes.nodes, 'node')}{share}")
    if report.began is not None:
        last = "" if report.ended is None or report.run.status in ("running", "paused") else f"to {moment(report.ended)}"
        yield Figure("time", moment(report.began), last)
    if report.history.count > 1:
        yield Figure("executions", count(report.history.count), "resumed from the ledger")


def _execution_seconds(report: ReportData) -> float | None:
    """Return the duration of all executions, without the pauses between them."""
    seconds = [record.ended - record.began for record in report.history.executions if record.ended]
    if seconds and len(seconds) == len(report.history.executions) == report.history.count:
        return sum(seconds)
    return report.timeline.axis.seconds if report.timeline is not None else None


def _phases(report: ReportData) -> str:
    """Return the time before the first and after the last mini-batch of a run with one execution."""
    if report.timeline is None or len(report.history.executions) != 1 or report.history.executions[0].ended is None:
        return ""
    segments = report.timeline.attempts.segments
    if not segments:
        return ""
    first = min(segment.begins for segment in segments)
    last = report.timeline.axis.seconds - max(segment.begins + segment.seconds for segment in segments)
    return f"{duration(first)} to the first run(), {duration(max(last, 0))} after the last"


def _result_size(receipt: Mapping[str, Any] | None) -> str:
    if receipt is None:
        return "not published"
    if receipt.get("bytes") is None:
        return "published"
    parts = f" in {count(len(receipt['parts']), 'part')}" if "parts" in receipt else ""
    return f"{format_size(receipt['bytes'])}{parts}"


class Limit(NamedTuple):
    """A limit of the run and its actual value."""

    name: str
    unit: str  #: of both values: nothing or percent
    allowed: float | None  #: None means no limit
    actual: float
    result: str  #: the actual value as a sentence
    initial: str  #: value at the start of the run, if it was changed

    @property
    def is_exceeded(self) -> bool:
        """Return whether more failed than the limit allows."""
        return self.allowed is not None and self.actual > self.allowed

    @property
    def share(self) -> float:
        """Return how much of the limit is used, 0 to 1."""
        return min(self.actual / self.allowed, 1.0) if self.allowed else float(self.actual > 0)

    @property
    def verdict(self) -> str:
        """Return whether the limit is exceeded, as text."""
        if self.is_exceeded:
            return "✕ exceeded"
        return f"{100 * self.share:.0f} % used" if self.allowed else "none allowed, none failed"


def limits(report: ReportData) -> list[Limit]:
    """Return the limits in force at the end, in field order."""
    tally, first = report.tally, report.run.first_config
    current, initial = (asdict(FailureLimits.of(config)) for config in (report.history.config, first))
    percentage = 100 * tally.failed / tally.planned if tally.planned else 0.0
    actual = {
        "error_threshold": ("", tally.failed_items, f"{count(tally.failed_items, 'item')} failed"),
        "allowed_failed_count": ("", tally.failed, f"{count(tally.failed, *MINI_BATCHES)} failed"),
        "allowed_failed_percent": (" %", percentage, f"{percentage:.3g} % of the mini-batches failed"),
    }
    rows = []
    for name, (unit, value, result) in actual.items():
        is_changed = name in first and current[name] != initial[name]
        before = "no limit" if initial[name] is None else f"{initial[name]:,g}"
        rows.append(Limit(name, unit, current[name], value, result, before if is_changed else ""))
    return rows


def _results(report: ReportData) -> dict[str, Any]:
    tally = report.tally
    known = tally.succeeded_items + tally.failed_items + tally.waiting_items
    outcomes = {
        "mini-batches": (tally.succeeded, tally.failed, tally.waiting, tally.planned - tally.finished - tally.waiting),
        "items": (tally.succeeded_items, tally.failed_items, tally.waiting_items, tally.items - known),
    }
    rows = []
    for name, numbers in outcomes.items():
        text = ", ".join(f"{number:,} {label}" for number, (_, label) in zip(numbers, _PARTS, strict=True) if number)
        bar = stacked_bar([(kind, number) for number, (kind, _) in zip(numbers, _PARTS, strict=True)], f"{name}: {text}")
        rows.append((name, numbers, bar))
    return {"counts": {"parts": _PARTS, "rows": rows}, "limits": limits(report)}


def _node_names(nodes: str) -> str:
    """Return the sorted names of the nodes, at most eight.

    >>> _node_names("node-1,node-0")
    'node-0, node-1'
    """
    names = sorted((nodes or "").split(","), key=lambda name: (len(name), name))
    more = len(names) - _MAX_NODES
    return ", ".join(names[:_MAX_NODES]) + (f" and {more:,} more" if more > 0 else "")


def _failed(report: ReportData) -> Table | None:
    if not report.failures.mini_batches:
        return None
    rows = []
    for failed, inputs in report.failures.mini_batches:
        if failed.state == "succeeded":
            reason = f"returned {count(failed.items - failed.failed, 'row')} for {count(failed.items, 'item')}"
        else:
            reason = f"{failed.error_type}: {shorten(failed.error, 160)}"
        rows.append((failed.mini_batch, f"{failed.failed:,} of {failed.items:,}", failed.attempts, reason, inputs))
    items = count(report.tally.failed_items, "item")
    if report.tally.failed:
        caption = f"Failed: {count(report.tally.failed, *MINI_BATCHES)}, {items}."
    else:
        caption = f"Failed: {items}; no mini-batch failed as a whole."
    if report.failures.is_cut:
        caption += f" The first {len(rows)} are shown; `prefect-parallel-run failed` lists all."
    heads = ("mini-batch", "failed items", "attempts", "reason", "input")
    return Table(caption, heads, rows, heads[:3])


def _peaks(resources: Resources) -> Table:
    heads = ("node", "peak memory", "total memory", "peak memory of processes", "mean CPU", "lowest free disk space")
    rows = []
    for peak in resources.peaks[:_MAX_PEAKS]:
        memory = map(format_size, (peak.memory_used, peak.memory_total, peak.processes_memory))
        rows.append((peak.node, *memory, share_label(peak.cpu_percent), format_size(peak.disk_free)))
    caption = "Highest memory use first"
    if len(resources.peaks) > _MAX_PEAKS:
        caption += f"; {_MAX_PEAKS} of {len(resources.peaks)}"
    return Table(caption, heads, rows, heads[1:])


def _durations(report: ReportData) -> dict[str, Any]:
    if report.timeline is None or not report.timeline.attempts.dated:
        return {"durations": None}
    durations = report.timeline.attempts.durations
    histogram, marks = columns(durations.counts), _quantiles(durations)
    chart = distribution(
        [(column.succeeded, column.failed) for column in histogram],
        [(_position(histogram, seconds), f"{name} {duration(seconds)}") for name, seconds in marks[1:4]],
        [(_position(histogram, seconds), label) for seconds, label in _edges(histogram)],
    )
    names = [name for name, _ in marks]
    figures = Table("Successful attempts", names, [[duration(seconds) for _, seconds in marks]], names) if marks else None
    return {"durations": chart, "quantiles": figures, "slowest": _slowest(report)}


def _quantiles(durations: Durations) -> list[tuple[str, float]]:
    if not durations.counts[0].any():
        return []
    between = [(name, durations.quantile(share)) for name, share in _QUANTILES]
    return [("shortest", durations.shortest), *between, ("longest", durations.longest)]


def _position(histogram: list[Column], seconds: float) -> float:
    """Return the position of a duration between the first and the last column, 0 to 1."""
    low, high = math.log(histogram[0].begins), math.log(histogram[-1].stops)
    return min(max((math.log(max(seconds, 1e-9)) - low) / (high - low), 0.0), 1.0)


def _edges(histogram: list[Column]) -> list[tuple[float, str]]:
    """Return round durations on the axis; otherwise its left end."""
    low, high = histogram[0].begins, histogram[-1].stops
    inside = [edge for edge in _EDGES if low <= edge[0] <= high * 1.001]
    if len(inside) > 2:
        return inside
    steps = [factor * 10.0**power for power in range(-5, 7) for factor in (1, 2, 5)]
    return [(step, tick(step)) for step in steps if low * 0.999 <= step <= high * 1.001] or [(low, duration(low))]


def _slowest(report: ReportData) -> Table | None:
    heads = ("duration", "mini-batch", "attempt", "outcome", "items", "node", "input")
    rows = []
    for slow in report.slowest:
        result = outcome(slow.outcome) if slow.outcome == Outcome.SUCCEEDED else f"✕ {outcome(slow.outcome)}"
        attempt = slow.attempt or "some items"
        row = (duration(slow.seconds), slow.mini_batch, attempt, result, count(slow.items), slow.node, slow.inputs)
        rows.append(row)
    numbers = ("duration", "mini-batch", "attempt", "items")
    return Table("Slowest attempts", heads, rows, numbers) if rows else None


def _configuration(report: ReportData) -> dict[str, Any]:
    description = report.run.description
    inputs = [
        {
            "name": dataset.get("name") or "unnamed",
            "kind": dataset.get("kind", ""),
            "paths": dataset.get("paths", []),
            "options": {
                key: value for key, value in dataset.items() if key not in _SHOWN_SEPARATELY and value not in (None, [], False)
            },
        }
        for dataset in description.get("inputs", [])
    ]
    return {
        "inputs": inputs,
        "side_inputs": description.get("side_inputs", {}).items(),
        "arguments": shlex.join(description.get("arguments", [])),
        "settings": list(_settings(report.history.config, report.run.first_config)),
        "variables": ", ".join(description.get("environment_variables", [])),
    }


def _settings(config: Mapping[str, Any], first: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the settings that differ from the defaults or from the initial configuration."""
    fields = ParallelRunConfig.model_fields
    for name, value in config.items():
        default = fields[name].default if name in fields else None
        if name in first and first[name] != value and name not in ("entry_script", "source_directory"):
            yield name, f"{_plain(value)} (initially {_plain(first[name])})"
        elif value != default:
            yield name, _plain(value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _versions(report: ReportData) -> list[tuple[str, str]]:
    records = [record.versions for record in report.history.executions]
    names = sorted({name for record in records for name in record}, key=lambda name: (name != "python", name))
    return [(name, _changes([record.get(name, "-") for record in records])) for name in names]


def _changes(values: list[str]) -> str:
    """Return a value that may have changed between executions.

    >>> _changes(["1", "1", "2"])
    '1, then 2'
    """
    return ", then ".join(value for index, value in enumerate(values) if index == 0 or value != values[index - 1])


def _executions(report: ReportData) -> Table | None:
    rows = []
    for record in report.history.executions:
        status = record.status or "ended without a record"
        reason = f": {record.reason[:300]}" if record.reason else ""
        seconds = duration(record.ended - record.began) if record.ended else ""
        rows.append((record.number, moment(record.began), seconds, status + reason, record.host))
    heads = ("execution", "started", "duration", "status", "host")
    return Table("Executions", heads, rows, heads[:1]) if rows else None


def _commands(report: ReportData) -> Table | None:
    """Return the control commands of the run; the timeline has the numbers of the applied ones."""
    rows = []
    for number, command in list(enumerate(report.history.commands, 1))[-_MAX_COMMANDS:]:
        answer = command.answer if command.applied_at is not None else f"refused: {command.answer}"
        at = moment(command.at) if command.at is not None else ""
        rows.append((number, at, command.by or "", [describe_command(command.what)], answer))
    more = len(report.history.commands) - len(rows)
    caption = "Control commands" + (f"; the first {more:,} are in the ledger's table controls" if more else "")
    heads = ("number", "time", "sent by", "command", "result")
    return Table(caption, heads, rows, heads[:1]) if rows else None
