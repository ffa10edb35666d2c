"""Distinguishable names of task runs: the step's name, and for mapped runs what differs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.result import ParallelRunResult

_MAX_CHARACTERS = 60


def task_run_name(name: str, defaults: Mapping[str, Any], is_pending: Callable[[Any], bool]) -> Callable[..., str]:
    """Return the function of the task run's parameters that Prefect calls to name it.

    Args:
        name: Name of the step.
        defaults: The step's own values; a run with another input, output or arguments is named after them.
        is_pending: True for a value that is not known yet, such as a future; a step with such defaults differs only in that.
    """

    def name_of(parameters: Mapping[str, Any]) -> str:
        for key, describe in (("inputs", _inputs), ("output", _last), ("arguments", _arguments)):
            value, default = parameters[key], defaults[key]
            if value is default or value == default or _contains(default, is_pending):
                continue
            if label := describe(value)[:_MAX_CHARACTERS]:
                return f"{name} {label}"
        return name

    return name_of


def _contains(value: Any, predicate: Callable[[Any], bool]) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | set):
        return any(_contains(element, predicate) for element in value)
    return predicate(value)


def _inputs(value: Any) -> str:
    values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    if not values:
        return ""
    first, more = values[0], len(values) - 1
    if isinstance(first, Dataset) and first.name is None and first.paths:
        label, more = _last(first.paths[0]), more + len(first.paths) - 1
    else:
        label = (first.name or first.origin) if isinstance(first, Dataset) else _last(first)
    return f"{label} +{more}" if more else label


def _last(value: Any) -> str:
    """Return the last two components of a path or URL, without its query, which can hold secrets of a signed URL.

    >>> _last("/data/2024/01/"), _last("https://host/a/b.csv?signature=x")
    ('2024/01', 'a/b.csv')
    """
    if isinstance(value, ParallelRunResult):
        return value.name
    text = str(value)
    if is_remote(text):
        text = text.partition("?")[0].partition("#")[0].partition("://")[2]
    names = [part for part in text.split("/") if part]
    return "".join(c if c.isprintable() else "?" for c in "/".join(names[-2:]))


def _arguments(value: Any) -> str:
    values = value if isinstance(value, list | tuple) else [value]
    return "".join(c if c.isprintable() else "?" for c in " ".join(map(str, values)))
