"""``try``: runs a few mini-batches in one process on this machine and estimates the whole run. Publishes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from prefect_parallel_run._units import MINI_BATCHES, count, format_seconds, format_size
from prefect_parallel_run.cli._command import Exit, emit, emit_json
from prefect_parallel_run.cli._run_command import emit_styled, terminal_view
from prefect_parallel_run.cli.step_options import StepCommand, read_step_options
from prefect_parallel_run.monitoring.logs import escape_control_chars
from prefect_parallel_run.monitoring.terminal import clipped

if TYPE_CHECKING:
    from prefect_parallel_run.execution.estimate import TrialFigures
    from prefect_parallel_run.execution.trial import TrialResult

_MAX_ROWS = 10  #: shown
_MAX_WIDTH = 120  #: characters shown of a row or an error
_RECEIPT_FIELDS = ("mini_batch", "outcome", "items", "failed", "rows", "seconds", "error_type", "error", "traceback")


@click.command("try", cls=StepCommand)
@click.argument("config")
@click.option("--mini-batches", type=int, metavar="N", help="Number of mini-batches, from the first one on (default: 3).")
@click.option("--mini-batch", type=int, metavar="N", help="Run only this mini-batch; the first one is 0.")
@click.option("--sample", is_flag=True, help="Spread the mini-batches evenly over the input.")
def try_out(*, as_json: bool, mini_batches: int | None, mini_batch: int | None, sample: bool, **values: Any) -> Exit:
    """Run a few mini-batches in one process on this machine, print their rows, and estimate what the whole input would take.

    CONFIG is a YAML file with a ParallelRunConfig. Nothing is published: a temporary folder takes the place of the output.
    """
    options = read_step_options(values, for_run=False)
    with terminal_view(options.name, as_json=as_json) as view:
        view.doing("starting")
        from prefect_parallel_run.cli.step_flow import step_of  # noqa: PLC0415  Prefect takes seconds, in view of the user

        result = step_of(options).try_out(mini_batches, mini_batch=mini_batch, sample=sample)
    if as_json:  # Parquet rows may have dates and infinite numbers, which JSON lacks
        rows = json.loads(json.dumps(result.rows, default=str), parse_constant=lambda _: None)
        receipts = [{field: getattr(receipt, field) for field in _RECEIPT_FIELDS} for receipt in result.mini_batches]
        emit_json({**result._asdict(), "rows": rows, "mini_batches": receipts, "figures": asdict(result.figures)})
    else:
        _print(options.name, result)
    return Exit.FAILED if result.failures else Exit.SUCCESS


def _print(name: str, result: TrialResult) -> None:
    planned = count(result.figures.mini_batches, *MINI_BATCHES)
    emit(f"{name}: tried {len(result.mini_batches):,} of {planned} in one process; nothing was published")
    table = Table("mini-batch", "items", "rows", "seconds", "", box=None, pad_edge=False)
    for column in table.columns[:4]:
        column.justify = "right"
    for receipt in result.mini_batches:
        error = _line(f"{receipt.error_type}: {receipt.error}".strip(": \n").partition("\n")[0])
        numbers = f"{receipt.mini_batch}", f"{receipt.items:,}", f"{receipt.rows:,}", f"{receipt.seconds:.2f}"
        table.add_row(*numbers, Text(error))
    emit_styled(table)
    causes = {receipt.fingerprint: receipt for receipt in reversed(result.failures)}  # the first failure of each
    for receipt in sorted(causes.values()):
        emit_styled(Text(f"\nmini-batch {receipt.mini_batch} failed ({receipt.outcome})", "bold red"))
        emit(escape_control_chars(receipt.traceback or f"{receipt.error_type}: {receipt.error}").rstrip())
    if result.rows:
        emit("")
        for row in ([result.header] if result.header else []) + result.rows[:_MAX_ROWS]:
            emit(_line(row if isinstance(row, str) else json.dumps(row, default=str)))
        if (more := len(result.rows) - _MAX_ROWS) > 0:
            are_lines = len(result.rows) > sum(receipt.rows for receipt in result.mini_batches)
            emit(f"… {count(more, 'more line' if are_lines else 'more row')}")
    emit("")
    for title, figure in _figures(result.figures):
        emit(f"{title:<21}{figure}")
    for warning in result.warnings:
        emit_styled(Text.assemble(("warning: ", "bold yellow"), escape_control_chars(warning)))


def _line(text: str) -> str:
    """Return a line that a terminal can show, clipped."""
    return clipped(escape_control_chars(text), _MAX_WIDTH)


def _figures(figures: TrialFigures) -> Iterator[tuple[str, str]]:
    """Yield the title and the text of each figure."""
    yield "start of a process", f"{format_seconds(figures.start_seconds)} (import and init())"
    yield "memory of a process", f"{format_size(figures.memory)} at most" if figures.memory else "unknown"
    yield "whole input", f"{count(figures.items, 'item')} in {count(figures.mini_batches, *MINI_BATCHES)}"
    if figures.seconds_per_item is None or figures.process_hours is None or figures.wall_seconds is None:
        yield "estimate", "none, because no mini-batch succeeded"
        return
    times = figures.seconds_per_item
    lowest, median, highest = (format_seconds(time) if time >= 0.999 else f"{1_000 * time:.3g} ms" for time in times)
    yield "time per item", f"{median} ({lowest} to {highest})" if lowest < highest else median
    yield (
        "estimated run time",
        f"{format_seconds(figures.wall_seconds)} with {count(figures.processes, 'process', 'processes')}",
    )
    yield "total process time", format_seconds(3_600 * figures.process_hours)
