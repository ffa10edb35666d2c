"""Summary of a plan: counts, sizes, the first and the last mini-batches, processes and limits. Pure."""

from __future__ import annotations

import json
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor
from statistics import median
from typing import Any, NamedTuple

from prefect_parallel_run._units import MINI_BATCHES, count, format_size
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.models import MiniBatch
from prefect_parallel_run.monitoring.locations import location_of
from prefect_parallel_run.monitoring.logs import escape_control_chars
from prefect_parallel_run.output.failed_items import source_location

_MINI_BATCHES_SHOWN = 3  #: at either end
_MAX_PATHS = 3  #: paths shown of a mini-batch


class SizeRange(NamedTuple):
    """Range and median of the sizes of mini-batches."""

    least: int
    median: float
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFigures:
    """Counts and sizes of a plan."""

    mini_batches: int
    items: int
    size: int  #: bytes of source
    items_each: SizeRange
    size_each: SizeRange  #: bytes
    first: tuple[MiniBatch, ...]
    last: tuple[MiniBatch, ...]  #: without those in first
    notes: tuple[str, ...] = ()  #: warnings about the inputs


def summarize_plan(plan: Iterable[MiniBatch], notes: tuple[str, ...] = ()) -> PlanFigures:
    """Return the figures of *plan*; *notes* are the warnings of planning. Needs 16 bytes of memory per mini-batch."""
    items, sizes = array("q"), array("q")
    first: list[MiniBatch] = []
    last: deque[MiniBatch] = deque(maxlen=_MINI_BATCHES_SHOWN)
    for mini_batch in plan:
        items.append(mini_batch.items)
        sizes.append(mini_batch.size)
        (first if len(first) < _MINI_BATCHES_SHOWN else last).append(mini_batch)
    return PlanFigures(
        mini_batches=len(items),
        items=sum(items),
        size=sum(sizes),
        items_each=_size_range(items),
        size_each=_size_range(sizes),
        first=tuple(first),
        last=tuple(last),
        notes=notes,
    )


def _size_range(values: Sequence[int]) -> SizeRange:
    return SizeRange(min(values), median(values), max(values)) if values else SizeRange(0, 0, 0)


def limits_of(config: ParallelRunConfig, figures: PlanFigures) -> dict[str, int | None]:
    """Return how many failed items and mini-batches the limits allow; None means any number."""
    allowed_count = config.allowed_failed_count
    percent = config.allowed_failed_percent
    allowed = [
        allowed_count if allowed_count is not None and allowed_count >= 0 else None,
        floor(figures.mini_batches * percent / 100) if percent is not None and percent < 100 else None,
    ]
    return {
        "failed_items": config.error_threshold if config.error_threshold >= 0 else None,
        "failed_mini_batches": min((number for number in allowed if number is not None), default=None),
    }


def as_plain(figures: PlanFigures, config: ParallelRunConfig, slots: int | None = None) -> dict[str, Any]:
    """Return the figures for JSON; the keys are documented. *slots* is the processes per node, None if each node decides."""
    return {
        "mini_batches": figures.mini_batches,
        "items": figures.items,
        "bytes": figures.size,
        "items_per_mini_batch": figures.items_each._asdict(),
        "bytes_per_mini_batch": figures.size_each._asdict(),
        "first": [_entry(mini_batch) for mini_batch in figures.first],
        "last": [_entry(mini_batch) for mini_batch in figures.last],
        "nodes": config.node_count,
        "processes_per_node": slots,
        "processes": slots * config.node_count if slots is not None else None,
        "tries_at_most": figures.mini_batches * config.run_max_try,
        "limits": limits_of(config, figures),
        "notes": list(figures.notes),
    }


def _entry(mini_batch: MiniBatch) -> dict[str, Any]:
    work = json.loads(mini_batch.work)
    keys = {"partition_key_value": work["partition_key_value"]} if "partition_key_value" in work else {}
    entry = {"mini_batch": mini_batch.number, "input": mini_batch.input_name, "items": mini_batch.items}
    return {**entry, "bytes": mini_batch.size, **keys, **source_location(work)}


def plan_lines(figures: PlanFigures, config: ParallelRunConfig, slots: int | None = None) -> list[str]:
    """Return the figures as lines for people; *slots* as for as_plain()."""
    lines = [f"  {count(figures.mini_batches, *MINI_BATCHES)}, {count(figures.items, 'item')}, {format_size(figures.size)}"]
    if not figures.mini_batches:
        return lines
    items, sizes = figures.items_each, figures.size_each
    lines.append(f"  items each: {items.least:,} to {items.most:,}, median {items.median:,g}")
    lines.append(f"  size each: {format_size(sizes.least)} to {format_size(sizes.most)}, median {format_size(sizes.median)}")
    shown = [*figures.first, *figures.last]
    left_out = figures.mini_batches - len(shown)
    listed = [
        f"  {mini_batch.number}: {location_of(json.loads(mini_batch.work), _MAX_PATHS)} ({format_size(mini_batch.size)})"
        for mini_batch in shown
    ]
    lines += [*listed[: len(figures.first)], *([f"  … {left_out:,} more …"] if left_out else []), *listed[len(figures.first) :]]
    return [
        *lines,
        *_execution_lines(figures, config, slots),
        *(f"  note: {escape_control_chars(note)}" for note in figures.notes),
    ]


def _execution_lines(figures: PlanFigures, config: ParallelRunConfig, slots: int | None) -> list[str]:
    processes = "one per core, 1 with a GPU" if slots is None else f"{slots}, {slots * config.node_count} in all"
    timeout = f"timeout {config.run_invocation_timeout:g} s per call of run()"
    limits = limits_of(config, figures)
    allowed = [
        f"any number of failed {plural}" if number is None else count(number, f"failed {name}", f"failed {plural}")
        for name, plural, number in (
            ("item", "items", limits["failed_items"]),
            (*MINI_BATCHES, limits["failed_mini_batches"]),
        )
    ]
    return [
        f"  nodes: {config.node_count} ({_target(config.compute_target)}), processes on each: {processes}",
        f"  attempts: {config.run_max_try} each, {figures.mini_batches * config.run_max_try:,} at most, {timeout}",
        f"  allows {' and '.join(allowed)}",
    ]


def _target(target: Any) -> str:
    """Return the name of a compute target; one that was read from a run directory is a mapping."""
    if isinstance(target, str):
        return target
    options = target if isinstance(target, dict) else target.model_dump()
    return str(options.get("address") or options.get("scheduler_file") or options.get("cluster_class"))
