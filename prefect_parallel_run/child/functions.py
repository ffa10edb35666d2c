"""The functions of an entry script: its own init(), run() and shutdown(), or those that its decorators mark as a step's."""

import inspect
from types import ModuleType
from typing import Any, Callable, Dict, NoReturn, Optional, Type

Function = Callable[..., Any]


class NotAnEntryScript(ValueError):  # noqa: N818  its name is shown to the user as the error's type
    """The script has no run function that can be called with a mini-batch."""


class StepFunctions:
    """What ``@parallel_run(…)`` makes of a function while the script is imported by a process of the step.

    Attributes:
        run: The function.
        hooks: The functions that ``init`` and ``shutdown`` have registered, by these names.
    """

    def __init__(self, run: Function) -> None:
        self.run = run
        self.hooks: Dict[str, Function] = {}

    def init(self, function: Function) -> Function:
        """Register the function that every process calls before its first mini-batch."""
        return self._register("init", function)

    def shutdown(self, function: Function) -> Function:
        """Register the function that every process calls when no work is left."""
        return self._register("shutdown", function)

    def _register(self, name: str, function: Function) -> Function:
        if name in self.hooks:
            step, first = self.run.__name__, self.hooks[name].__name__
            raise NotAnEntryScript(f"{step}.{name} is already {first}, so {function.__name__} cannot be registered")
        self.hooks[name] = function
        return function

    def with_options(self, **_: Any) -> "StepFunctions":
        """Return this object: options of a task do not concern a process of the step."""
        return self

    def __getattr__(self, name: str) -> NoReturn:
        """Raise AttributeError: a process of the step knows neither the step's options nor Prefect."""
        if name.startswith("__"):  # pickle and copy look for methods before the object has its attributes
            raise AttributeError(name)
        step = self.run.__name__
        raise AttributeError(
            f"{step}.{name} does not exist in the step's own processes, which have only {step}.run, init, shutdown and"
            f' with_options; use {step}.{name} in a flow, or below if __name__ == "__main__":'
        )

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Raise NotAnEntryScript: a step that starts steps would not end."""
        name = self.run.__name__
        raise NotAnEntryScript(
            f"the step {name} was called in one of its own processes; call it in a flow, or below"
            f' if __name__ == "__main__":, and call {name}.run to call the function itself'
        )

    submit = map = delay = __call__


def parallel_run(**_: Any) -> Type[StepFunctions]:
    """Return the decorator for a process of a step, whose options are already known."""
    return StepFunctions


def functions_of(module: ModuleType, name: str = "", hooks: Optional[Dict[str, str]] = None) -> Dict[str, Function]:
    """Return the functions of a script as ``run`` and, if there are any, ``init`` and ``shutdown``.

    Args:
        module: The imported script.
        name: Name of a function with the decorator ``@parallel_run(…)``; "" for the script's own three functions.
        hooks: The ``hook_names`` that the flow process has registered; None if it has not imported the script.

    Raises:
        NotAnEntryScript: The script lacks the function, it cannot be called with a mini-batch, or the hooks differ.
    """
    functions = _functions_of_step(module, name, hooks) if name else _own_functions(module)
    for key, function in functions.items():
        check_function(function, key, returns_rows=key == "run")
    return functions


def check_function(function: Function, name: str, *, returns_rows: bool) -> None:
    """Raise NotAnEntryScript for a generator that nothing runs; the error calls it *name*. A generator can return rows."""
    if inspect.isasyncgenfunction(function):
        raise NotAnEntryScript(f"its {name}() is an async generator; expected async def without yield, or def")
    if inspect.isgeneratorfunction(function) and not returns_rows:
        raise NotAnEntryScript(f"its {name}() is a generator; expected def or async def, without yield")


def hook_names(step: StepFunctions) -> Dict[str, str]:
    """Return the names of the functions that are registered as ``init`` and ``shutdown``, by these."""
    return {kind: function.__name__ for kind, function in step.hooks.items()}


def _functions_of_step(module: ModuleType, name: str, hooks: Optional[Dict[str, str]]) -> Dict[str, Function]:
    expected = f"expected def {name}(mini_batch) with the decorator @parallel_run(…) at the top level of the script"
    step = getattr(module, name, None)
    if isinstance(step, StepFunctions):
        if hooks is not None:
            _check_hooks(module, step, hooks)
        return {"run": step.run, **step.hooks}
    if step is not None:
        raise NotAnEntryScript(f"its {name}, the entry_function, is a {type(step).__name__}; {expected}")
    names = sorted(key for key, value in vars(module).items() if isinstance(value, StepFunctions))
    raise NotAnEntryScript(f"it lacks {name}, the entry_function; {expected}; with it, there are: {', '.join(names) or 'none'}")


def _check_hooks(module: ModuleType, step: StepFunctions, expected: Dict[str, str]) -> None:
    """Raise NotAnEntryScript if importing the file here has not registered the same functions as in the flow process."""
    registered = hook_names(step)
    for kind in ("init", "shutdown"):
        there, here = (f"{hooks[kind]}()" if kind in hooks else "not registered" for hooks in (expected, registered))
        if there != here:
            raise NotAnEntryScript(
                f"{step.run.__name__}.{kind} is {there} in the flow process but {here} in this process, which imports"
                f" {module.__file__} as the module {module.__name__}; register the same function however the file is imported:"
                " at its top level, not below a condition such as __name__ == '__main__', and not from another file"
            )


def _own_functions(module: ModuleType) -> Dict[str, Function]:
    named = {name: getattr(module, name, None) for name in ("run", "init", "shutdown")}
    functions = {name: value for name, value in named.items() if value is not None}
    for name, value in functions.items():
        if not callable(value):
            raise NotAnEntryScript(f"its {name} is a {type(value).__name__}, not a function")
    if "run" not in functions:
        raise NotAnEntryScript("it lacks a function run(mini_batch)")
    return functions


def wants_context(run: Function, name: str = "run") -> bool:
    """True when run() has a required second positional parameter, or one called context; errors call it *name*."""
    try:
        parameters = list(inspect.signature(run).parameters.values())
    except ValueError:  # a builtin without a signature
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not positional and not any(p.kind == p.VAR_POSITIONAL for p in parameters):
        raise NotAnEntryScript(f"its {name}() takes no argument; it is called with a mini-batch")
    needed = [p for p in positional if p.default is p.empty]
    if len(needed) > 2:
        raise NotAnEntryScript(f"its {name}() needs {len(needed)} arguments; it is called with a mini-batch and a context")
    return len(positional) > 1 and (len(needed) == 2 or positional[1].name == "context")
