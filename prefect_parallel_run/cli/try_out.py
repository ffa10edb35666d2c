"""``try``: runs a few mini-batches in one process on this machine and estimates the whole run. Publishes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from prefect_parallel_run._units import MINI_BATCHES, count, format_seconds, format_size
from prefect_parallel_run.cli._command import Exit, emit, emit_json
from prefect_parallel_run.cli._run_command import emit_styled, terminal_view
from prefect_parallel_run.cli.step_options import StepCommand, read_step_options
from prefect_parallel_run.models import Receipt
from prefect_parallel_run.monitoring.logs import escape_control_chars
from prefect_parallel_run.monitoring.terminal import clipped

if TYPE_CHECKING:
    from prefect_parallel_run.execution.estimate import TrialFigures
    from prefect_parallel_run.execution.trial import TrialResult

_MAX_ROWS = 10  #: shown
_MAX_WIDTH = 120  #: columns shown of a row
_LEAST_HOURS = 0.01  #: shown
_RECEIPT_FIELDS = ("mini_batch", "outcome", "items", "failed", "rows", "seconds", "error_type", "error", "traceback")


@click.command("try", cls=StepCommand)
@click.argument("config")
@click.option(
    "--mini-batches", type=int, default=3, show_default=True, metavar="N", help="Number of mini-batches, from the first one on."
)
@click.option("--mini-batch", type=int, metavar="N", help="Run only this mini-batch; the first one is 0.")
@click.option("--sample", is_flag=True, help="Spread the mini-batches evenly over the input.")
def try_out(*, as_json: bool, mini_batches: int, mini_batch: int | None, sample: bool, **values: Any) -> Exit:
    """Run a few mini-batches in one process on this machine, print their rows, and estimate what the whole input would take.

    CONFIG is a YAML file with a ParallelRunConfig. Nothing is published: a temporary folder takes the place of the output.
    """
    options = read_step_options(values, for_run=False)
    with terminal_view(options.name, as_json=as_json) as view:
        view.doing("starting")
        from prefect_parallel_run.cli.step_flow import step_of  # noqa: PLC0415  Prefect takes seconds, in view of the user

        result = step_of(options).try_out(mini_batches, mini_batch=mini_batch, sample=sample)
    if as_json:
        rows = json.loads(json.dumps(result.rows, default=str))  # values of Parquet may be dates
        receipts = [{field: getattr(receipt, field) for field in _RECEIPT_FIELDS} for receipt in result.mini_batches]
        emit_json({**result._asdict(), "rows": rows, "mini_batches": receipts, "figures": asdict(result.figures)})
    else:
        _print(options.name, result)
    return Exit.FAILED if result.failures else Exit.SUCCESS


def _print(name: str, result: TrialResult) -> None:
    emit(f"{name}: tried {_basis(result.figures)} in one process; nothing was published")
    emit_styled(_mini_batches(result.mini_batches))
    causes = {receipt.fingerprint: receipt for receipt in reversed(result.failures)}  # the first failure of each
    for receipt in sorted(causes.values()):
        emit_styled(Text(f"\nmini-batch {receipt.mini_batch} failed ({receipt.outcome})", "bold red"))
        emit(escape_control_chars(receipt.traceback or f"{receipt.error_type}: {receipt.error}").rstrip())
    if result.rows:
        emit("")
        emit_styled(_rows(result))
        more = len(result.rows) - _MAX_ROWS
        emit(f"… {more:,} more\n" if more > 0 else "")
    else:
        emit("")
    for title, figure in _figures(result.figures):
        emit(f"{title:<21}{figure}")
    for warning in result.warnings:
        emit_styled(Text.assemble(("warning: ", "bold yellow"), escape_control_chars(warning)))


def _mini_batches(receipts: Sequence[Receipt]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("mini-batch", "items", "rows", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for receipt in receipts:
        counts = (f"{receipt.mini_batch}", f"{receipt.items:,}", f"{receipt.rows:,}", f"{receipt.seconds:.2f}")
        table.add_row(*counts, _cell(f"{receipt.error_type}: {receipt.error}".strip(": \n"), "red"))
    return table


def _rows(result: TrialResult) -> Table:
    """Return a table of the first rows; a row of text is one column."""
    is_text = isinstance(result.rows[0], str)
    names = [result.header] if is_text else list(result.rows[0])
    table = Table(box=None, pad_edge=False, show_header=any(names))
    for name in names:
        table.add_column(_cell(name))
    for row in result.rows[:_MAX_ROWS]:
        table.add_row(*map(_cell, [row] if is_text else row.values()))
    return table


def _cell(value: Any, style: str = "") -> Text:
    """Return the first line of a value, as a terminal can show it."""
    return Text(clipped(escape_control_chars(str(value).partition("\n")[0]), _MAX_WIDTH), style)


def _figures(figures: TrialFigures) -> Iterator[tuple[str, str]]:
    """Yield the title and the text of each figure."""
    yield "start of a process", f"{format_seconds(figures.start_seconds)} (import and init())"
    yield "memory of a process", f"{format_size(figures.memory)} at most"
    yield "whole input", f"{count(figures.items, 'item')} in {count(figures.mini_batches, *MINI_BATCHES)}"
    if figures.seconds_per_item is None or figures.process_hours is None or figures.wall_seconds is None:
        yield "estimate", "none, because no mini-batch succeeded"
        return
    lowest, median, highest = map(_format_short, figures.seconds_per_item)
    yield "time per item", f"{median} ({lowest} to {highest})" if figures.tried > 1 else median
    hours = f"{figures.process_hours:,.2f}" if figures.process_hours >= _LEAST_HOURS else f"less than {_LEAST_HOURS}"
    processes = count(figures.processes, "process", "processes")
    yield "estimate", f"{hours} process hours; {format_seconds(figures.wall_seconds)} with {processes}"
    yield "based on", _basis(figures)


def _basis(figures: TrialFigures) -> str:
    return f"{figures.tried:,} of {count(figures.mini_batches, *MINI_BATCHES)}"


def _format_short(seconds: float) -> str:
    """Return a duration as text, in milliseconds if it is short.

    >>> _format_short(0.0625), _format_short(125)
    ('62.5 ms', '2 min 5 s')
    """
    return format_seconds(seconds) if seconds >= 0.999 else f"{1_000 * seconds:.3g} ms"
