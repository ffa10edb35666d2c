"""FunctionStep: a ParallelRunStep whose entry script is the file that defines its functions."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, Generic, ParamSpec, TypeVar, cast

from prefect import Flow, Task

from prefect_parallel_run._units import shown
from prefect_parallel_run.child.functions import NotAnEntryScript, StepFunctions, check_function, wants_context
from prefect_parallel_run.config.base import similar
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.step import TASK_OPTIONS, ParallelRunStep

P = ParamSpec("P")
R = TypeVar("R")
Hook = TypeVar("Hook", bound=Callable[[], Any])

_SET_HERE = {"self", "fn", "parallel_run_config", "task_options", "entry_script", "entry_function"}
_FIELDS = ParallelRunConfig.model_fields.keys() - _SET_HERE
_OPTIONS = {*_FIELDS, *inspect.signature(ParallelRunStep).parameters, *TASK_OPTIONS} - _SET_HERE


class FunctionStep(ParallelRunStep, Generic[P, R]):
    """A ParallelRunStep from functions, which the decorator ``parallel_run`` makes.

    It is called, submitted and mapped like any ParallelRunStep.

    Attributes:
        run: The decorated function, to be called without a step, for example in a unit test.
    """

    run: Callable[P, R]
    _functions: StepFunctions

    def __init__(self, function: Callable[P, R], name: str, parallel_run_config: ParallelRunConfig, **options: Any) -> None:
        self.run = function
        self._functions = StepFunctions(function)
        super().__init__(name, parallel_run_config, **options)

    def init(self, function: Hook) -> Hook:
        """Register *function*, and return it: every process calls it once, before its first mini-batch.

        A process fails to start if it does not register the same function when it imports the file.

        Raises:
            ValueError: Another function is registered; or this one has parameters or is not at the top level of the same file.
        """
        return self._register(self._functions.init, function)

    def shutdown(self, function: Hook) -> Hook:
        """Register *function*, and return it: every process calls it once, when no work is left; raises as ``init``."""
        return self._register(self._functions.shutdown, function)

    def _register(self, register: Callable[[Any], Any], function: Hook) -> Hook:
        """Check and register a function."""
        hook = plain_function(function)
        if _file_of(hook) != (file := _file_of(plain_function(self.run))):
            raise ValueError(f"{hook.__qualname__} is defined in {_file_of(hook)}; expected a function in {file}, as the step")
        try:
            inspect.signature(function).bind()
            check_function(function, hook.__qualname__, returns_rows=False)
        except (TypeError, NotAnEntryScript) as error:
            raise ValueError(f"{hook.__qualname__}: {error}; expected one function without required parameters") from None
        return cast("Hook", register(function))


def step_of(function: Callable[P, R], options: Mapping[str, Any]) -> FunctionStep[P, R]:
    """Return the step of *function*.

    Raises:
        ValueError: An option is unknown or invalid, or a process could not import the function or call it with a mini-batch.
    """
    plain = plain_function(function)
    for option in options.keys() - _OPTIONS:
        expected = "a field of ParallelRunConfig, a parameter of ParallelRunStep, or an option of a Prefect task"
        is_known = option in ("entry_script", "entry_function")
        hint = ", which is taken from the function" if is_known else similar(option, _OPTIONS)
        raise ValueError(f"parallel_run: unknown option {option!r}{hint}; expected {expected}")
    try:
        check_function(function, plain.__name__, returns_rows=True)
        wants_context(function, plain.__name__)
    except NotAnEntryScript as error:
        raise ValueError(f"parallel_run: {_file_of(plain)}: {error}") from None
    _check_is_only(plain)
    fields = {"description": inspect.getdoc(function), **{name: options[name] for name in options.keys() & _FIELDS}}
    config = ParallelRunConfig(entry_script=str(_file_of(plain)), entry_function=plain.__name__, **fields)
    others = {name: options[name] for name in options.keys() - _FIELDS - {"name"}}
    return FunctionStep(function, options.get("name") or plain.__name__, config, **others)


def plain_function(function: Any) -> FunctionType:
    """Return the function that ``def`` made, without its decorators.

    Raises:
        ValueError: A process that imports the function's file could not find it there by its name.
    """
    if isinstance(function, Task | Flow):
        raise ValueError(
            f"parallel_run: {function.name} is a Prefect {type(function).__name__}; {_EXPECTED}: a step is a task itself"
        )
    plain = inspect.unwrap(function)
    if not isinstance(plain, FunctionType):
        raise ValueError(f"parallel_run: {shown(function)} is not a function; {_EXPECTED}")
    name, file = plain.__qualname__, plain.__globals__.get("__file__")
    if plain.__name__ == "<lambda>":
        raise ValueError(f"parallel_run: a lambda has no name; {_EXPECTED}")
    if "<locals>" in name:
        hint = "a decorator below @parallel_run must use functools.wraps"
        raise ValueError(f"parallel_run: {name} is a nested function; {_EXPECTED}; {hint}")
    if "." in name:
        raise ValueError(f"parallel_run: {name} is a method; {_EXPECTED}")
    if file is None or _file_of(plain) != Path(file).resolve() or not _file_of(plain).is_file():
        raise ValueError(f"parallel_run: {name} has no file, as in a REPL or a notebook cell; {_EXPECTED}, and import it")
    return plain


_EXPECTED = "expected def at the top level of a Python file, which the step's processes can import"


def _file_of(function: FunctionType) -> Path:
    return Path(function.__code__.co_filename).resolve()


def _check_is_only(function: FunctionType) -> None:
    """Raise ValueError if a function replaces a step of the same name: processes would run it for both steps."""
    name, step = function.__name__, function.__globals__.get(function.__name__)
    if not isinstance(step, FunctionStep):
        return
    line, other = (each.__code__.co_firstlineno for each in (function, plain_function(step.run)))
    nodes = ast.walk(ast.parse(_file_of(function).read_bytes())) if line != other else ()
    # A file that was edited and is imported again has one definition, which has moved.
    if sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name for node in nodes) > 1:
        raise ValueError(
            f"parallel_run: {_file_of(function)} defines the step {name} in line {other} and again in line {line}; processes"
            " find functions by name and would always run the second; rename one of them"
        )
