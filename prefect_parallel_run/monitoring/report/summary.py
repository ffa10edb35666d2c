"""The top of a report: how the run ended and why, its figures, what came of its items, and how near its limits came."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import NamedTuple

from prefect_parallel_run.models import Tally
from prefect_parallel_run.monitoring.report.bars import stacked_bar
from prefect_parallel_run.monitoring.report.charts import legend, percent
from prefect_parallel_run.monitoring.report.data import Facts
from prefect_parallel_run.monitoring.report.format import STATUS, duration, moment, rate
from prefect_parallel_run.monitoring.report.html import Html, el, join
from prefect_parallel_run.runs.limits import FailureLimits
from prefect_parallel_run.units import count, format_size

_PARTS = (("ok", "succeeded"), ("bad", "failed"), ("waiting", "between two tries"), ("rest", "not reached"))


class Limit(NamedTuple):
    """One of the run's limits, and how much of it was used."""

    name: str
    allowed: float | None  #: None: everything is forgiven
    actual: float
    counts: tuple[str, str]  #: what it counts: one, several
    at_first: str = ""  #: what the run was begun with, where that is something else

    @property
    def is_exceeded(self) -> bool:
        """True when more failed than is forgiven."""
        return self.allowed is not None and self.actual > self.allowed


def limits(facts: Facts) -> list[Limit]:
    """Return the limits as they were in force at the end, in field order."""
    tally = facts.tally
    failed_percent = 100 * tally.failed / tally.planned if tally.planned else 0.0

    several = ("mini-batch", "mini-batches")

    first = facts.description.get("config", {})
    forgiven, before = (asdict(FailureLimits.of(config)) for config in (facts.config, first))

    def limit(name: str, actual: float, counts: tuple[str, str]) -> Limit:
        now, then = forgiven[name], before[name]
        at_first = "" if now == then or name not in first else "no limit" if then is None else f"{then:,g}"
        return Limit(name, now, actual, counts, at_first)

    return [
        limit("error_threshold", tally.failed_items, ("item", "items")),
        limit("allowed_failed_count", tally.failed, several),
        limit("allowed_failed_percent", failed_percent, several),
    ]


def head(facts: Facts) -> Html:
    """Return the title, the status with its reason, and the figures."""
    shape, words = STATUS.get(facts.status, ("?", facts.status))
    note = facts.reason or _forgiven(facts)
    status = el(
        "p",
        el("span", shape, class_="shape", aria_hidden="true"),
        " ",
        el("strong", words),
        el("span", note, class_="reason") if note else None,
        class_=f"status {facts.status if facts.status in STATUS else 'planned'}",
    )
    step = facts.description.get("step", facts.run_id)
    figures = [el("div", el("dt", name), el("dd", *value)) for name, value in _figures(facts)]
    description = facts.description.get("config", {}).get("description")
    return el(
        "header",
        el("p", "prefect_parallel_run report", class_="kind"),
        el("h1", step),
        el("p", facts.run_id, class_="run-id"),
        el("p", description) if description else None,
        status,
        el("dl", *figures, class_="figures-grid"),
    )


def _forgiven(facts: Facts) -> str:
    """Return what failed in a run that succeeded."""
    failed = facts.tally.failed_items
    return f"{count(failed, 'item')} failed, as the limits allow." if failed and facts.status == "succeeded" else ""


def _figures(facts: Facts) -> Iterator[tuple[str, list[object]]]:
    tally, seconds = facts.tally, worked_seconds(facts)
    if seconds is not None:
        yield "took", [duration(seconds), _small(_phases(facts))]
    yield "mini-batches", [count(tally.finished), _small(f"of {count(tally.planned)} done")]
    yield "items", [count(tally.succeeded_items), _small(f"of {count(tally.items)} succeeded")]
    yield "rows", [count(tally.rows), _small(_result_size(facts))]
    if facts.timeline is not None and seconds:
        lanes = facts.timeline.lanes
        items = rate(tally.succeeded_items / seconds)
        yield "throughput", [rate(tally.succeeded / seconds), _small(f"mini-batches; {items} items")]
        yield "ran on", [count(lanes.total, "slot"), _small(f"on {count(lanes.nodes, 'node')}; {_utilisation(facts)}")]
    if facts.began is not None:
        last = "" if facts.ended is None or facts.status == "running" else f"to {moment(facts.ended)}"
        yield "when", [el("span", moment(facts.began), class_="moment"), _small(last)]
    if facts.driven > 1:
        yield "driven", [count(facts.driven, "time"), _small("gone on with from its ledger")]


def worked_seconds(facts: Facts) -> float | None:
    """Return for how long the run was driven, pauses between drives left out."""
    if facts.drives and len(facts.drives) == facts.driven and all(drive.ended for drive in facts.drives):
        return sum((drive.ended or drive.began) - drive.began for drive in facts.drives)
    return facts.timeline.axis.seconds if facts.timeline is not None else None


def _phases(facts: Facts) -> str:
    """Return what a run that was driven once did besides running mini-batches."""
    if facts.timeline is None or len(facts.drives) != 1 or facts.timeline.tries.segments is None:
        return ""
    segments = facts.timeline.tries.segments
    if not segments or facts.drives[0].ended is None:
        return ""
    first = min(segment.begins for segment in segments)
    last = facts.timeline.axis.seconds - max(segment.begins + segment.seconds for segment in segments)
    return f"{duration(first)} to the first run(), {duration(max(last, 0))} after the last"


def _utilisation(facts: Facts) -> str:
    assert facts.timeline is not None  # noqa: S101  the caller has looked; for the type checker
    whole = facts.timeline.axis.seconds * facts.timeline.lanes.total
    return f"{100 * float(facts.timeline.tries.busy.sum()) / whole:.0f} % of their time in run()" if whole else ""


def _result_size(facts: Facts) -> str:
    if facts.receipt is None or facts.receipt.get("bytes") is None:
        return "published" if facts.receipt is not None else "nothing is published"
    return format_size(facts.receipt["bytes"])


def _small(words: str) -> Html | None:
    return el("small", words) if words else None


def result_line(facts: Facts) -> Html | None:
    """Return where the result and the run directory are."""
    places = [("run directory", facts.directory)]
    if facts.receipt is not None and facts.receipt.get("output_file"):
        places.insert(0, ("result", facts.receipt["output_file"]))
    elif facts.description.get("output"):
        places.insert(0, ("output", facts.description["output"]))
    return el("dl", *(el("div", el("dt", name), el("dd", el("code", place))) for name, place in places), class_="places")


def counts(facts: Facts) -> Html:
    """Return what came of the mini-batches and of the items."""
    rows, tally = [], facts.tally
    kinds = (("mini-batches", _of_mini_batches(tally)), ("items", _of_items(tally)))
    for name, numbers in kinds:
        told = ", ".join(f"{number:,} {words}" for number, (_, words) in zip(numbers, _PARTS, strict=True) if number)
        bar = stacked_bar([(kind, number) for number, (kind, _) in zip(numbers, _PARTS, strict=True)], f"{name}: {told}")
        cells = [el("td", count(number), class_="number") for number in numbers]
        rows.append(el("tr", el("th", name, scope="row"), *cells, el("td", bar, class_="wide")))
    heads = [el("th", words, scope="col", class_="number") for _, words in _PARTS]
    return el(
        "section",
        el("h2", "What came of it"),
        el(
            "div",
            el(
                "table",
                el("caption", "Every mini-batch and every item is in one of these.", class_="quiet"),
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


def limits_section(facts: Facts) -> Html:
    """Return every limit with what was used of it."""
    return el("section", el("h2", "Limits"), el("ul", *map(_limit, limits(facts)), class_="limits"), id="limits")


def _limit(limit: Limit) -> Html:
    is_share = limit.name.endswith("percent")
    actual = f"{limit.actual:.3g} % of the mini-batches failed" if is_share else f"{count(limit.actual, *limit.counts)} failed"
    at_first = f" (at first {limit.at_first})" if limit.at_first else ""
    if limit.allowed is None:
        words = join(actual, el("span", f" · no limit is set{at_first}", class_="quiet"))
        return el("li", el("code", limit.name), el("span", words, class_="limit-words"))
    share = min(limit.actual / limit.allowed, 1.0) if limit.allowed else float(limit.actual > 0)
    verdict = (
        "✕ exceeded" if limit.is_exceeded else f"{100 * share:.0f} % used" if limit.allowed else "none forgiven, none used"
    )
    bar = el(
        "svg",
        el("rect", width="100%", height="100%", class_="limit-ground"),
        el("rect", width=percent(share), height="100%", class_="bad" if limit.is_exceeded else "used") if share else None,
        width="100%",
        height=10,
        role="img",
        aria_label=f"{limit.name}: {verdict}",
    )
    words = el(
        "span",
        f"{actual}, {limit.allowed:,g}{' %' if is_share else ''} forgiven{at_first} · ",
        el("b", verdict),
        class_="limit-words",
    )
    return el("li", el("code", limit.name), words, bar, class_="exceeded" if limit.is_exceeded else None)
