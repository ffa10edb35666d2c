"""Imports the user's entry script as a module, and calls its three functions."""

import importlib
import importlib.util
import inspect
import os
import sys
from types import ModuleType
from typing import Any, Callable, List, Optional


class NotAnEntryScript(Exception):  # noqa: N818  its name is shown to the user as the error's type
    """The script has no run function that can be called with a mini-batch."""


class Script:
    """An imported entry script."""

    def __init__(self, module: ModuleType) -> None:
        self._init = _function(module, "init")
        self._shutdown = _function(module, "shutdown")
        run = _function(module, "run")
        if run is None:
            raise NotAnEntryScript("it lacks a function run(mini_batch)")
        self._run = run
        self._wants_context = _wants_context(run)

    def init(self) -> None:
        """Call the script's init(), if it has one."""
        if self._init is not None:
            self._init()

    def run(self, mini_batch: Any, context: Any) -> Any:
        """Call run() with or without the context, by its signature."""
        if self._wants_context:
            return self._run(mini_batch, context)
        return self._run(mini_batch)

    def shutdown(self) -> None:
        """Call the script's shutdown(), if it has one."""
        if self._shutdown is not None:
            self._shutdown()


def load(path: str, source: str, arguments: List[str]) -> Script:
    """Import the script at *path* as a module and return it.

    Sets ``sys.argv`` first and makes its folder and *source* importable. A script in a package (or in a sub-folder of *source*)
    gets a dotted name, so that its relative imports work.
    """
    folder = os.path.dirname(path)
    top, name = _module_name(path, source)
    for entry in dict.fromkeys((top, source, folder)):
        if entry not in sys.path:
            sys.path.insert(0, entry)
    sys.argv = [path, *arguments]
    return Script(_import(name, path))


def _module_name(path: str, source: str) -> "tuple[str, str]":
    """Return the folder to import from and the dotted name of the script below it."""
    stem = os.path.splitext(os.path.basename(path))[0].replace(".", "_")  # a dot would separate packages
    parts, folder = [stem], os.path.dirname(path)
    below_source = os.path.join(source, "")
    while os.path.exists(os.path.join(folder, "__init__.py")) or folder.startswith(below_source):
        folder, package = os.path.split(folder)
        parts.insert(0, package)
    if all(part.isidentifier() for part in parts[:-1]):
        return folder, ".".join(parts)
    return os.path.dirname(path), stem


def _import(name: str, path: str) -> ModuleType:
    """Import the file *path* under *name*; a name that is taken (json, random, …) gets a prefix instead."""
    parent = name.rpartition(".")[0]
    if parent:
        importlib.import_module(parent)
    while _is_taken(name, path):
        name = f"{parent}{'.' if parent else ''}entry_script_{name.rpartition('.')[2]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise NotAnEntryScript(f"{os.path.basename(path)} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _is_taken(name: str, path: str) -> bool:
    """Return whether *name* belongs to another module: one that is imported, or that the script could import later."""
    if name in sys.modules or name in sys.builtin_module_names:
        return True
    if os.path.basename(path) == f"{name.rpartition('.')[2]}.py":
        return False
    try:
        return importlib.util.find_spec(name) is not None  # score_v2.py beside score.v2.py
    except ModuleNotFoundError:  # the parent is a module, not a package: no other module can have this name
        return False


def _function(module: ModuleType, name: str) -> Optional[Callable[..., Any]]:
    value = getattr(module, name, None)
    if value is None or callable(value):
        return value
    raise NotAnEntryScript(f"its {name} is a {type(value).__name__}, not a function")


def _wants_context(run: Callable[..., Any]) -> bool:
    """True when run() has a required second positional parameter, or one called context."""
    try:
        parameters = list(inspect.signature(run).parameters.values())
    except ValueError:  # a builtin without a signature
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not positional and not any(p.kind == p.VAR_POSITIONAL for p in parameters):
        raise NotAnEntryScript("its run() takes no argument; it is called with a mini-batch")
    needed = [p for p in positional if p.default is p.empty]
    if len(needed) > 2:
        raise NotAnEntryScript(f"its run() needs {len(needed)} arguments; it is called with a mini-batch and a context")
    return len(positional) > 1 and (len(needed) == 2 or positional[1].name == "context")
