"""What went wrong: failed tries by cause, the first example of each, and the mini-batches that failed for good."""

from __future__ import annotations

from prefect_parallel_run.monitoring.report.data import Facts, Failed, FailureGroup
from prefect_parallel_run.monitoring.report.format import moment, outcome
from prefect_parallel_run.monitoring.report.html import Html, el
from prefect_parallel_run.monitoring.report.tables import code_lines, listing
from prefect_parallel_run.units import count

_LONGEST_TEXT = 600  #: characters of an error's words
_LONGEST_TRACEBACK = 4_000  #: of which both ends are shown: the last line says what it was
_MOST_NODES = 8
_MOST_AT_ONCE = 4  #: causes; the others are folded away


def failures(facts: Facts) -> Html | None:
    """Return the section, or None when all went well."""
    if not facts.causes and not facts.failed:
        return None
    shown = sum(found.cause.tries for found in facts.causes)
    words = f"{count(shown, 'failed try', 'failed tries')} of {count(len(facts.causes), 'cause')}"
    return el(
        "section",
        el("h2", "What failed" if facts.status == "succeeded" else "What went wrong"),
        el("p", f"{words}; those that no later try made good, first.", class_="quiet") if facts.causes else None,
        *(_cause(found, number) for number, found in enumerate(facts.causes[:_MOST_AT_ONCE])),
        _more(facts.causes[_MOST_AT_ONCE:]),
        _table(facts) if facts.failed else None,
        id="failures",
    )


def _more(causes: list[FailureGroup]) -> Html | None:
    if not causes:
        return None
    return el("details", el("summary", f"{count(len(causes), 'more cause')}"), *(_cause(found, 1) for found in causes))


def _cause(found: FailureGroup, number: int) -> Html:
    cause = found.cause
    figures = [
        ("failed tries", count(cause.tries)),
        ("mini-batches", count(cause.mini_batches)),
        ("failed for good", count(cause.failed_items, "item")),
        ("the first", f"mini-batch {cause.first_mini_batch}" + (f", {moment(found.first_at)}" if found.first_at > 0 else "")),
        ("on", _nodes(cause.nodes)),
    ]
    return el(
        "article",
        el(
            "h3",
            el("span", cause.error_type or outcome(cause.outcome), class_="error-type"),
            el("span", outcome(cause.outcome), class_="tag"),
        ),
        el("p", _shortened(cause.error, _LONGEST_TEXT), class_="error"),
        el("dl", *(el("div", el("dt", name), el("dd", value)) for name, value in figures), class_="facts"),
        _inside("The first that was found guilty" if cause.guilty else "In its first mini-batch", found.places),
        el(
            "details",
            el("summary", "Traceback of the first"),
            el("pre", _shortened(cause.traceback.rstrip(), _LONGEST_TRACEBACK), tabindex=0),
            open=number == 0,
        )
        if cause.traceback
        else None,
        class_="cause",
    )


def _inside(words: str, places: list[str]) -> Html | None:
    return el("div", el("span", f"{words}:"), code_lines(places), class_="inside") if places else None


def _nodes(nodes: str) -> str:
    """Return the names of some nodes.

    >>> _nodes("node-1,node-0")
    'node-0, node-1'
    """
    names = sorted((nodes or "").split(","), key=lambda name: (len(name), name))
    more = len(names) - _MOST_NODES
    return ", ".join(names[:_MOST_NODES]) + (f" and {more:,} more" if more > 0 else "")


def _table(facts: Facts) -> Html:
    whole = facts.tally.failed
    words = f"Failed for good: {count(whole, 'mini-batch', 'mini-batches')}, {count(facts.tally.failed_items, 'item')}."
    if len(facts.failed) < whole:
        words += f" The first {len(facts.failed)} are shown; prefect-parallel-run failed lists all."
    heads = ("mini-batch", "failed items", "tries", "why", "what was in it")
    return listing(words, heads, map(_row, facts.failed), numbers=heads[:3])


def _row(shown: Failed) -> tuple[object, ...]:
    failed = shown.failed
    if failed.state == "succeeded":
        why = f"returned {failed.items - failed.failed} rows for {failed.items} items"
    else:
        why = f"{failed.error_type}: {_shortened(failed.error, 160)}"
    return failed.mini_batch, f"{failed.failed:,} of {failed.items:,}", failed.attempts, why, code_lines(shown.places)


def _shortened(text: str, longest: int) -> str:
    """Return both ends of a long text."""
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]}\n… {len(text) - longest // 2 * 2:,} characters left out …\n{text[-(longest // 2) :]}"
