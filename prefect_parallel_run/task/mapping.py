"""Task.map of a step: mapped task runs that would replace each other's output are refused before anything runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar, cast

from prefect import unmapped
from prefect.utilities.annotations import BaseAnnotation
from prefect.utilities.callables import expand_mapping_parameters, get_call_parameters
from prefect.utilities.engine import resolve_inputs_sync

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.planning.inputs import output_location
from prefect_parallel_run.result import ParallelRunResult

F = TypeVar("F", bound=Callable[..., Any])


def refuses_shared_outputs(function: F) -> F:
    """Return *function*, which is Task.map, with a check of the outputs of a step that publishes one.

    It raises ValueError if two elements would publish to the same output. Futures that are mapped over are waited for, as
    Task.map does; the path of a future among the outputs is not known, so that only the same future twice is refused.
    """

    @wraps(function)
    def checked(
        step: Any, *args: Any, return_state: bool = False, wait_for: Any = None, deferred: bool = False, **kwargs: Any
    ) -> Any:
        parameters = get_call_parameters(step.fn, args, kwargs, apply_defaults=False)
        parameters = {key: _reusable(value) for key, value in parameters.items()}
        if step.parallel_run_config.result_file_name is not None:
            values = parameters if deferred else resolve_inputs_sync(parameters, max_depth=0)
            elements = expand_mapping_parameters(step.fn, {key: _without_annotation(value) for key, value in values.items()})
            _check_outputs(step.name, [element["output"] for element in elements])
        return function(step, return_state=return_state, wait_for=wait_for, deferred=deferred, **parameters)

    return cast("F", checked)


def _reusable(value: Any) -> Any:
    """Return an iterator as a list, which can be read for the check and again for the task runs."""
    if isinstance(value, BaseAnnotation):
        return value.rewrap(_reusable(value.unwrap()))
    return list(value) if isinstance(value, Iterator) and not isinstance(value, list) else value


def _without_annotation(value: Any) -> Any:
    """Return *value* without annotations such as allow_failure, which are not mapped over; unmapped stays."""
    is_annotated = isinstance(value, BaseAnnotation) and not isinstance(value, unmapped)
    return _without_annotation(value.unwrap()) if is_annotated else value


def _check_outputs(step: str, outputs: list[Any]) -> None:
    numbers: dict[str | int, int] = {}
    for number, output in enumerate(outputs):
        key, text = _identity(_without_annotation(output))
        if key is not None and (first := numbers.setdefault(key, number)) != number:
            raise ValueError(
                f"{step}: elements {first} and {number} of this mapping would publish to the same output, {text}, and replace"
                " each other's result; pass one output for each element: output=[…]"
            )


def _identity(output: Any) -> tuple[str | int | None, str]:
    """Return what only equal outputs have in common, None for no output, and a text for an error."""
    if not isinstance(output, ParallelRunResult | str | os.PathLike | None):
        return id(output), f"a {type(output).__name__}"
    location = output_location(output)
    if location is None or is_remote(location):
        return location, str(location)
    return os.path.realpath(location), location
