"""The section about failures: failed attempts by cause with the first example of each, and the failed mini-batches."""

from __future__ import annotations

from prefect_parallel_run._units import count
from prefect_parallel_run.monitoring.report.data import Failed, FailureGroup, ReportData
from prefect_parallel_run.monitoring.report.format import moment, outcome
from prefect_parallel_run.monitoring.report.html import Html, el
from prefect_parallel_run.monitoring.report.tables import code_lines, listing

_MAX_ERROR = 600  #: characters of an error message
_MAX_TRACEBACK = 4_000  #: characters; both ends are kept, because the last line names the error
_MAX_NODES = 8
_MAX_EXPANDED = 4  #: causes; the others are collapsed


def failures(report: ReportData) -> Html | None:
    """Return the section; None without failures."""
    if not report.causes and not report.failed:
        return None
    shown = sum(group.cause.tries for group in report.causes)
    counts = f"{count(shown, 'failed attempt')} with {count(len(report.causes), 'cause')}"
    return el(
        "section",
        el("h2", "Failures"),
        el("p", f"{counts}; causes that no later attempt fixed come first.", class_="quiet") if report.causes else None,
        *(_cause(group, number) for number, group in enumerate(report.causes[:_MAX_EXPANDED])),
        _more(report.causes[_MAX_EXPANDED:]),
        _table(report) if report.failed else None,
        id="failures",
    )


def _more(causes: list[FailureGroup]) -> Html | None:
    if not causes:
        return None
    return el("details", el("summary", f"{count(len(causes), 'more cause')}"), *(_cause(group, 1) for group in causes))


def _cause(group: FailureGroup, number: int) -> Html:
    cause = group.cause
    figures = [
        ("failed attempts", count(cause.tries)),
        ("mini-batches", count(cause.mini_batches)),
        ("failed items", count(cause.failed_items, "item")),
        ("first", f"mini-batch {cause.first_mini_batch}" + (f", {moment(group.first_at)}" if group.first_at > 0 else "")),
        ("nodes", _nodes(cause.nodes)),
    ]
    return el(
        "article",
        el(
            "h3",
            el("span", cause.error_type or outcome(cause.outcome), class_="error-type"),
            el("span", outcome(cause.outcome), class_="tag"),
        ),
        el("p", _shortened(cause.error, _MAX_ERROR), class_="error"),
        el("dl", *(el("div", el("dt", name), el("dd", value)) for name, value in figures), class_="facts"),
        _input("First failing item" if cause.guilty else "Input of its first mini-batch", group.inputs),
        el(
            "details",
            el("summary", "First traceback"),
            el("pre", _shortened(cause.traceback.rstrip(), _MAX_TRACEBACK), tabindex=0),
            open=number == 0,
        )
        if cause.traceback
        else None,
        class_="cause",
    )


def _input(label: str, inputs: list[str]) -> Html | None:
    return el("div", el("span", f"{label}:"), code_lines(inputs), class_="inside") if inputs else None


def _nodes(nodes: str) -> str:
    """Return the sorted names of the nodes, at most eight.

    >>> _nodes("node-1,node-0")
    'node-0, node-1'
    """
    names = sorted((nodes or "").split(","), key=lambda name: (len(name), name))
    more = len(names) - _MAX_NODES
    return ", ".join(names[:_MAX_NODES]) + (f" and {more:,} more" if more > 0 else "")


def _table(report: ReportData) -> Html:
    total = report.tally.failed
    caption = f"Failed: {count(total, 'mini-batch', 'mini-batches')}, {count(report.tally.failed_items, 'item')}."
    if len(report.failed) < total:
        caption += f" The first {len(report.failed)} are shown; `prefect-parallel-run failed` lists all."
    heads = ("mini-batch", "failed items", "attempts", "reason", "input")
    return listing(caption, heads, map(_row, report.failed), numbers=heads[:3])


def _row(example: Failed) -> tuple[object, ...]:
    failed = example.failed
    if failed.state == "succeeded":
        reason = f"returned {failed.items - failed.failed} rows for {failed.items} items"
    else:
        reason = f"{failed.error_type}: {_shortened(failed.error, 160)}"
    return failed.mini_batch, f"{failed.failed:,} of {failed.items:,}", failed.attempts, reason, code_lines(example.inputs)


def _shortened(text: str, max_length: int) -> str:
    """Return *text* without its middle if it is too long."""
    if len(text) <= max_length:
        return text
    return (
        f"{text[: max_length // 2]}\n… {len(text) - max_length // 2 * 2:,} characters left out …\n{text[-(max_length // 2) :]}"
    )
