"""What a plan comes to: counts, sizes, the first and the last mini-batches, processes and limits in numbers. Pure."""

from __future__ import annotations

import json
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor
from statistics import median
from typing import Any, NamedTuple

from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.models import MiniBatch
from prefect_parallel_run.monitoring.logs import escape_control_chars
from prefect_parallel_run.output.failed_items import source
from prefect_parallel_run.units import MINI_BATCHES, count, format_size

_SHOWN = 3  #: mini-batches at either end
_PATHS = 3  #: of a mini-batch


class Spread(NamedTuple):
    """How large mini-batches are."""

    least: int
    median: float
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFigures:
    """What a plan comes to."""

    mini_batches: int
    items: int
    size: int  #: bytes of source
    items_each: Spread
    size_each: Spread  #: bytes
    first: tuple[MiniBatch, ...]
    last: tuple[MiniBatch, ...]  #: none of the first
    notes: tuple[str, ...] = ()  #: what is odd about the inputs and no error


def figures_of(plan: Iterable[MiniBatch], notes: tuple[str, ...] = ()) -> PlanFigures:
    """Return what *plan* comes to, with what planning has noted; sixteen bytes a mini-batch are held."""
    items, sizes = array("q"), array("q")
    first: list[MiniBatch] = []
    last: deque[MiniBatch] = deque(maxlen=_SHOWN)
    for mini_batch in plan:
        items.append(mini_batch.items)
        sizes.append(mini_batch.size)
        (first if len(first) < _SHOWN else last).append(mini_batch)
    return PlanFigures(
        mini_batches=len(items),
        items=sum(items),
        size=sum(sizes),
        items_each=_spread(items),
        size_each=_spread(sizes),
        first=tuple(first),
        last=tuple(last),
        notes=notes,
    )


def _spread(values: Sequence[int]) -> Spread:
    return Spread(min(values), median(values), max(values)) if values else Spread(0, 0, 0)


def limits_of(config: ParallelRunConfig, figures: PlanFigures) -> dict[str, int | None]:
    """Return how many failed items and mini-batches are forgiven, counted; None: all of them."""
    count = config.allowed_failed_count
    percent = config.allowed_failed_percent
    allowed = [
        count if count is not None and count >= 0 else None,
        floor(figures.mini_batches * percent / 100) if percent is not None and percent < 100 else None,
    ]
    return {
        "failed_items": config.error_threshold if config.error_threshold >= 0 else None,
        "failed_mini_batches": min((number for number in allowed if number is not None), default=None),
    }


def as_plain(figures: PlanFigures, config: ParallelRunConfig, slots: int | None = None) -> dict[str, Any]:
    """Return it as plain values; these keys are documented. *slots*: processes per node; None: each node will say that."""
    return {
        "mini_batches": figures.mini_batches,
        "items": figures.items,
        "bytes": figures.size,
        "items_per_mini_batch": figures.items_each._asdict(),
        "bytes_per_mini_batch": figures.size_each._asdict(),
        "first": [_facts(mini_batch) for mini_batch in figures.first],
        "last": [_facts(mini_batch) for mini_batch in figures.last],
        "nodes": config.node_count,
        "processes_per_node": slots,
        "processes": slots * config.node_count if slots is not None else None,
        "tries_at_most": figures.mini_batches * config.run_max_try,
        "limits": limits_of(config, figures),
        "notes": list(figures.notes),
    }


def _facts(mini_batch: MiniBatch) -> dict[str, Any]:
    work = json.loads(mini_batch.work)
    keys = {"partition_key_value": work["partition_key_value"]} if "partition_key_value" in work else {}
    about = {"mini_batch": mini_batch.number, "input": mini_batch.input_name, "items": mini_batch.items}
    return {**about, "bytes": mini_batch.size, **keys, **source(work)}


def plan_lines(figures: PlanFigures, config: ParallelRunConfig, slots: int | None = None) -> list[str]:
    """Return it as lines for people; *slots* as above."""
    lines = [f"  {count(figures.mini_batches, *MINI_BATCHES)}, {count(figures.items, 'item')}, {format_size(figures.size)}"]
    if not figures.mini_batches:
        return lines
    items, sizes = figures.items_each, figures.size_each
    lines.append(f"  items each: {items.least:,} to {items.most:,}, median {items.median:,g}")
    lines.append(f"  size each: {format_size(sizes.least)} to {format_size(sizes.most)}, median {format_size(sizes.median)}")
    shown = [*figures.first, *figures.last]
    left_out = figures.mini_batches - len(shown)
    told = [f"  {mini_batch.number}: {_where(_facts(mini_batch))}" for mini_batch in shown]
    lines += [*told[: len(figures.first)], *([f"  … {left_out:,} more …"] if left_out else []), *told[len(figures.first) :]]
    return [*lines, *_how(figures, config, slots), *(f"  note: {escape_control_chars(note)}" for note in figures.notes)]


def _where(facts: dict[str, Any]) -> str:
    """Return what a mini-batch reads: files, or rows of a file."""
    paths = facts.get("paths") or [facts["path"]]
    words = ", ".join(escape_control_chars(path) for path in paths[:_PATHS])
    if len(paths) > _PATHS:
        words += f" and {len(paths) - _PATHS} more"
    if "first_record" in facts:
        words += f", records {facts['first_record']:,} to {facts['first_record'] + facts['items'] - 1:,}"
    elif "start" in facts:
        kind = next((kind for kind in ("row_groups", "batches", "stripes") if kind in facts), None)
        words += f", {kind.replace('_', ' ')} {facts[kind]}, " if kind is not None else ", "
        words += f"rows {facts['start']:,} to {facts['stop'] - 1:,}{' of these' if kind is not None else ''}"
    elif "rows" in facts:
        words += f", {facts['rows']:,} rows"
    if "partition_key_value" in facts:
        keys = ", ".join(f"{key}={value}" for key, value in facts["partition_key_value"].items())
        words = f"{escape_control_chars(keys)}: {words}"
    return f"{words} ({format_size(facts['bytes'])})"


def _how(figures: PlanFigures, config: ParallelRunConfig, slots: int | None) -> list[str]:
    each = "as many as each has cores, 1 with a GPU" if slots is None else f"{slots}, {slots * config.node_count} in all"
    timeout = f"{config.run_invocation_timeout:g} s for one call of run()"
    limits = limits_of(config, figures)
    forgiven = [
        f"{'all' if number is None else f'{number:,}'} failed {name}"
        for name, number in (("items", limits["failed_items"]), ("mini-batches", limits["failed_mini_batches"]))
    ]
    return [
        f"  nodes: {config.node_count} ({_target(config.compute_target)}), processes on each: {each}",
        f"  tries: {config.run_max_try} each, {figures.mini_batches * config.run_max_try:,} at most, {timeout}",
        f"  forgives {' and '.join(forgiven)}",
    ]


def _target(given: Any) -> str:
    """Return what a compute target is called; one that was read from a run directory is a mapping."""
    if isinstance(given, str):
        return given
    facts = given if isinstance(given, dict) else given.model_dump()
    return str(facts.get("address") or facts.get("scheduler_file") or facts.get("cluster_class"))
