"""Names of task runs that people can tell apart: the step's, and what is special about this run where it is mapped. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.result import ParallelRunResult

_MOST_CHARACTERS = 60


def task_run_name(name: str, given: Mapping[str, Any], is_pending: Callable[[Any], bool]) -> Callable[..., str]:
    """Return what names a task run, as Prefect wants it: a function of its parameters.

    Args:
        name: Of the step.
        given: What the step was made with; a run that differs in its inputs, its output or its arguments is named after that.
        is_pending: True for what stands for a value that comes later; a step made with such ones differs by that alone.
    """

    def named(parameters: Mapping[str, Any]) -> str:
        for key, describe in (("inputs", _inputs), ("output", _last), ("arguments", _arguments)):
            value, usual = parameters[key], given[key]
            if value is usual or value == usual or _contains(usual, is_pending):
                continue
            if label := describe(value)[:_MOST_CHARACTERS]:
                return f"{name} {label}"
        return name

    return named


def _contains(value: Any, is_wanted: Callable[[Any], bool]) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | set):
        return any(_contains(element, is_wanted) for element in value)
    return is_wanted(value)


def _inputs(value: Any) -> str:
    values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    if not values:
        return ""
    first, more = values[0], len(values) - 1
    if isinstance(first, Dataset) and first.name is None:
        label, more = _last(first.paths[0]), more + len(first.paths) - 1
    else:
        label = str(first.name) if isinstance(first, Dataset) else _last(first)
    return f"{label} +{more}" if more else label


def _last(value: Any) -> str:
    """Return the last two names of a path or URL, without what may follow: a signed URL has secrets in its query.

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
    texts = value if isinstance(value, list | tuple) else [value]
    return "".join(c if c.isprintable() else "?" for c in " ".join(map(str, texts)))
