"""The decorator ``parallel_run``: a step from functions. Importing it imports no Prefect: children import files that use it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from prefect_parallel_run.child import functions
from prefect_parallel_run.child.entry_script import current

if TYPE_CHECKING:
    from prefect_parallel_run.function_step import FunctionStep

P = ParamSpec("P")
R = TypeVar("R")


def _require_parentheses(decorator: Callable[P, R]) -> Callable[P, R]:
    """Return *decorator*, which then raises TypeError if it is used without parentheses."""

    @wraps(decorator)
    def checked(*values: P.args, **options: P.kwargs) -> R:
        if values:
            example = '@parallel_run(error_threshold=0, output_action="append_row")'
            raise TypeError(f"parallel_run: expected options in parentheses, such as {example}, got {values[0]!r}")
        return decorator(*values, **options)

    return checked


@_require_parentheses
def parallel_run(
    *, error_threshold: int, output_action: Literal["append_row", "summary_only"], **options: Any
) -> Callable[[Callable[P, R]], FunctionStep[P, R]]:
    """Make a step of a function that is called as the ``run()`` of an entry script.

    The step's processes import the file that defines the function, as a module, and find the function by its name.

    Args:
        error_threshold: Failed items allowed over the whole input; -1 for no limit.
        output_action: append_row publishes the returned rows; summary_only counts them.
        options: Further fields of a ParallelRunConfig; ``name`` (by default the function's name) and further parameters of a
            ParallelRunStep, such as ``inputs`` and ``output``; options of a Prefect task that are none of these.

    Raises:
        ValueError: A value is invalid, or a process could not import the function: it is a lambda, a method or a nested
            function, or was defined in a REPL or notebook.

    Example:
        ::

            @parallel_run(error_threshold=0, output_action="append_row")
            def sizes(paths: list[str]) -> list[int]:
                return [Path(path).stat().st_size for path in paths]


            @flow
            def nightly():
                return sizes(inputs="images/*.jpg", output="out")
    """
    if current.is_script:
        return functions.parallel_run()  # type: ignore[return-value]  # what a script can use of a step
    from prefect_parallel_run.function_step import step_of  # noqa: PLC0415  a child must not import Prefect

    return lambda function: step_of(function, {"error_threshold": error_threshold, "output_action": output_action, **options})
