"""The top of a report: status and reason, key figures, counts of mini-batches and items, limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import NamedTuple

from prefect_parallel_run._units import count, format_size
from prefect_parallel_run.models import Tally
from prefect_parallel_run.monitoring.report.charts import legend, percent, stacked_bar
from prefect_parallel_run.monitoring.report.data import ReportData
from prefect_parallel_run.monitoring.report.format import STATUS, duration, moment, rate
from prefect_parallel_run.monitoring.report.html import Html, el, join
from prefect_parallel_run.runs.limits import FailureLimits

_PARTS = (("ok", "succeeded"), ("bad", "failed"), ("waiting", "awaiting retry"), ("rest", "not reached"))


class Limit(NamedTuple):
    """A limit of the run and its actual value."""

    name: str
    allowed: float | None  #: None means no limit
    actual: float
    counts: tuple[str, str]  #: unit, singular and plural
    initial: str = ""  #: value at the start of the run, if it was changed

    @property
    def is_exceeded(self) -> bool:
        """Return whether more failed than the limit allows."""
        return self.allowed is not None and self.actual > self.allowed


def limits(report: ReportData) -> list[Limit]:
    """Return the limits in force at the end, in field order."""
    tally = report.tally
    failed_percent = 100 * tally.failed / tally.planned if tally.planned else 0.0

    mini_batches = ("mini-batch", "mini-batches")
    first = report.description.get("config", {})
    current, initial = (asdict(FailureLimits.of(config)) for config in (report.config, first))

    def limit(name: str, actual: float, counts: tuple[str, str]) -> Limit:
        now, then = current[name], initial[name]
        initial_value = "" if now == then or name not in first else "no limit" if then is None else f"{then:,g}"
        return Limit(name, now, actual, counts, initial_value)

    return [
        limit("error_threshold", tally.failed_items, ("item", "items")),
        limit("allowed_failed_count", tally.failed, mini_batches),
        limit("allowed_failed_percent", failed_percent, mini_batches),
    ]


def head(report: ReportData) -> Html:
    """Return the title, the status with its reason, and the key figures."""
    symbol, label = STATUS.get(report.status, ("?", report.status))
    note = report.reason or _tolerated(report)
    status = el(
        "p",
        el("span", symbol, class_="shape", aria_hidden="true"),
        " ",
        el("strong", label),
        el("span", note, class_="reason") if note else None,
        class_=f"status {report.status if report.status in STATUS else 'planned'}",
    )
    step = report.description.get("step", report.run_id)
    figures = [el("div", el("dt", name), el("dd", *value)) for name, value in _figures(report)]
    description = report.description.get("config", {}).get("description")
    return el(
        "header",
        el("p", "prefect_parallel_run report", class_="kind"),
        el("h1", step),
        el("p", report.run_id, class_="run-id"),
        el("p", description) if description else None,
        status,
        el("dl", *figures, class_="figures-grid"),
    )


def _tolerated(report: ReportData) -> str:
    """Return how many items failed in a run that succeeded."""
    failed = report.tally.failed_items
    return f"{count(failed, 'item')} failed, as the limits allow." if failed and report.status == "succeeded" else ""


def _figures(report: ReportData) -> Iterator[tuple[str, list[object]]]:
    tally, seconds = report.tally, execution_seconds(report)
    if seconds is not None:
        yield "duration", [duration(seconds), _small(_phases(report))]
    yield "mini-batches", [count(tally.finished), _small(f"of {count(tally.planned)} finished")]
    yield "items", [count(tally.succeeded_items), _small(f"of {count(tally.items)} succeeded")]
    yield "rows", [count(tally.rows), _small(_result_size(report))]
    if report.timeline is not None and seconds:
        lanes = report.timeline.lanes
        items = rate(tally.succeeded_items / seconds)
        yield "throughput", [rate(tally.succeeded / seconds), _small(f"mini-batches; {items} items")]
        yield "ran on", [count(lanes.total, "slot"), _small(f"on {count(lanes.nodes, 'node')}; {_utilisation(report)}")]
    if report.began is not None:
        last = "" if report.ended is None or report.status == "running" else f"to {moment(report.ended)}"
        yield "time", [el("span", moment(report.began), class_="moment"), _small(last)]
    if report.execution_count > 1:
        yield "executions", [count(report.execution_count), _small("resumed from the ledger")]


def execution_seconds(report: ReportData) -> float | None:
    """Return the duration of all executions, without the pauses between them."""
    if (
        report.executions
        and len(report.executions) == report.execution_count
        and all(record.ended for record in report.executions)
    ):
        return sum((record.ended or record.began) - record.began for record in report.executions)
    return report.timeline.axis.seconds if report.timeline is not None else None


def _phases(report: ReportData) -> str:
    """Return the time before the first and after the last mini-batch of a run with one execution."""
    if report.timeline is None or len(report.executions) != 1 or report.timeline.attempts.segments is None:
        return ""
    segments = report.timeline.attempts.segments
    if not segments or report.executions[0].ended is None:
        return ""
    first = min(segment.begins for segment in segments)
    last = report.timeline.axis.seconds - max(segment.begins + segment.seconds for segment in segments)
    return f"{duration(first)} to the first run(), {duration(max(last, 0))} after the last"


def _utilisation(report: ReportData) -> str:
    assert report.timeline is not None  # noqa: S101  for the type checker: the caller has checked
    whole = report.timeline.axis.seconds * report.timeline.lanes.total
    return f"{100 * float(report.timeline.attempts.busy.sum()) / whole:.0f} % of their time in run()" if whole else ""


def _result_size(report: ReportData) -> str:
    if report.receipt is None or report.receipt.get("bytes") is None:
        return "published" if report.receipt is not None else "not published"
    return format_size(report.receipt["bytes"])


def _small(text: str) -> Html | None:
    return el("small", text) if text else None


def result_line(report: ReportData) -> Html | None:
    """Return the locations of the result and of the run directory."""
    locations = [("run directory", report.directory)]
    if report.receipt is not None and report.receipt.get("output_file"):
        locations.insert(0, ("result", report.receipt["output_file"]))
    elif report.description.get("output"):
        locations.insert(0, ("output", report.description["output"]))
    return el(
        "dl", *(el("div", el("dt", name), el("dd", el("code", location))) for name, location in locations), class_="places"
    )


def counts(report: ReportData) -> Html:
    """Return the section with the outcomes of all mini-batches and items."""
    rows, tally = [], report.tally
    kinds = (("mini-batches", _of_mini_batches(tally)), ("items", _of_items(tally)))
    for name, numbers in kinds:
        text = ", ".join(f"{number:,} {label}" for number, (_, label) in zip(numbers, _PARTS, strict=True) if number)
        bar = stacked_bar([(kind, number) for number, (kind, _) in zip(numbers, _PARTS, strict=True)], f"{name}: {text}")
        cells = [el("td", count(number), class_="number") for number in numbers]
        rows.append(el("tr", el("th", name, scope="row"), *cells, el("td", bar, class_="wide")))
    heads = [el("th", label, scope="col", class_="number") for _, label in _PARTS]
    return el(
        "section",
        el("h2", "Results"),
        el(
            "div",
            el(
                "table",
                el("caption", "Each mini-batch and each item is counted once.", class_="quiet"),
                el("thead", el("tr", el("td"), *heads, el("td", class_="wide"))),
                el("tbody", *rows),
                class_="counts",
            ),
            class_="scroll",
        ),
        legend(*_PARTS),
        id="counts",
    )


def _of_mini_batches(tally: Tally) -> tuple[int, int, int, int]:
    return tally.succeeded, tally.failed, tally.waiting, tally.planned - tally.finished - tally.waiting


def _of_items(tally: Tally) -> tuple[int, int, int, int]:
    known = tally.succeeded_items + tally.failed_items + tally.waiting_items
    return tally.succeeded_items, tally.failed_items, tally.waiting_items, tally.items - known


def limits_section(report: ReportData) -> Html:
    """Return the section with the limits and their actual values."""
    return el("section", el("h2", "Limits"), el("ul", *map(_limit, limits(report)), class_="limits"), id="limits")


def _limit(limit: Limit) -> Html:
    is_share = limit.name.endswith("percent")
    actual = f"{limit.actual:.3g} % of the mini-batches failed" if is_share else f"{count(limit.actual, *limit.counts)} failed"
    initial = f" (initially {limit.initial})" if limit.initial else ""
    if limit.allowed is None:
        text = join(actual, el("span", f" · no limit is set{initial}", class_="quiet"))
        return el("li", el("code", limit.name), el("span", text, class_="limit-words"))
    share = min(limit.actual / limit.allowed, 1.0) if limit.allowed else float(limit.actual > 0)
    verdict = "✕ exceeded" if limit.is_exceeded else f"{100 * share:.0f} % used" if limit.allowed else "none allowed, none used"
    bar = el(
        "svg",
        el("rect", width="100%", height="100%", class_="limit-ground"),
        el("rect", width=percent(share), height="100%", class_="bad" if limit.is_exceeded else "used") if share else None,
        width="100%",
        height=10,
        role="img",
        aria_label=f"{limit.name}: {verdict}",
    )
    text = el(
        "span",
        f"{actual}, {limit.allowed:,g}{' %' if is_share else ''} allowed{initial} · ",
        el("b", verdict),
        class_="limit-words",
    )
    return el("li", el("code", limit.name), text, bar, class_="exceeded" if limit.is_exceeded else None)
