"""The user's entry script: the names that it may import, and its import as a module with three functions."""

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Coroutine
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional

from .functions import Function, NotAnEntryScript, functions_of, wants_context

if TYPE_CHECKING:
    from .event_loop import EventLoop


class NoRetry(Exception):  # noqa: N818  the name is the contract's
    """Raised by an entry script when another attempt cannot help: the mini-batch fails immediately."""


class RetryLater(Exception):  # noqa: N818  like NoRetry
    """Raised by an entry script to delay the next attempt of its mini-batch; the failed attempt counts.

    Args:
        seconds: Delay, such as a service's ``Retry-After``; replaces ``retry_delay_seconds``, also when it is 0.
        message: The error message.

    Raises:
        ValueError: *seconds* is negative, not finite or not a number.
    """

    def __init__(self, seconds: float, message: str = "") -> None:
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not is_number or not 0 <= seconds <= sys.float_info.max:  # false for NaN, infinity, and integers beyond any float
            raise ValueError(f"seconds: expected a finite number, 0 or more, got {seconds!r}")
        super().__init__(message or f"retry in {seconds:g} s")
        self.seconds = seconds


class Context:
    """The second argument of run(mini_batch, context).

    Attributes:
        minibatch_index: Number of the mini-batch in the plan, from 0.
        dataset: Name of the mini-batch's input.
        partition_key_value: Its partition keys and their values, in the order of ``partition_keys``; None without keys.
        try_number: Number of the attempt, from 1.
        retry_count: Number of earlier attempts.
    """

    __slots__ = ("dataset", "minibatch_index", "partition_key_value", "try_number")

    def __init__(
        self, minibatch_index: int, dataset: str, try_number: int, partition_key_value: Optional[Dict[str, Any]]
    ) -> None:
        self.minibatch_index = minibatch_index
        self.dataset = dataset
        self.try_number = try_number
        self.partition_key_value = partition_key_value

    @property
    def retry_count(self) -> int:
        """Number of earlier attempts."""
        return self.try_number - 1

    def __repr__(self) -> str:
        return f"Context(minibatch_index={self.minibatch_index}, dataset={self.dataset!r}, try_number={self.try_number})"


class ScriptLogger(logging.Logger):
    """A logger that logging.config cannot disable, as it does with every logger that it does not configure.

    It passes its records to the root logger's handlers as long as ``propagate`` is true, like any other logger.
    """

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  logging's name
        """Return whether records of *level* are written, without logging's cache, which the root logger would not clear."""
        return not self.disabled and level > logging.root.manager.disable and level >= self.getEffectiveLevel()

    def __reduce__(self) -> Any:  # as in logging: another process has a logger of this name
        return logging.getLogger, (self.name,)

    def __deepcopy__(self, _: Any) -> "ScriptLogger":
        return self


_LOGGERS = logging.Manager(logging.root)  # separate: logging.config iterates over the root logger's manager
_LOGGERS.setLoggerClass(ScriptLogger)


class EntryScript:
    """The environment of the script; a singleton.

    Attributes:
        agent_name: Name of this process, as in the names of its logs.
        dir: Folder of the entry script.
        logger: Writes to this process's entry-script log in ``log_dir``, from ``logging_level`` on.
        log_dir: Folder for logs of this run.
        working_dir: Private working directory of this process, deleted when it exits.
        output_dir: The step's output.
        side_inputs: Side inputs by name.
    """

    agent_name: str = ""
    dir: str = ""
    logger: logging.Logger = _LOGGERS.getLogger("prefect_parallel_run.entry_script")
    log_dir: str = ""
    working_dir: str = ""
    output_dir: str = ""
    side_inputs: Dict[str, str] = {}  # noqa: RUF012  one per process, set once by the child

    _instance: "Optional[EntryScript]" = None

    def __new__(cls, *_: Any, **__: Any) -> "EntryScript":
        """Return the only instance. Azure's class accepts a logging level; here, the step sets it."""
        if EntryScript._instance is None:
            EntryScript._instance = super().__new__(cls)
        return EntryScript._instance


class Current:
    """The current work of this process, for the stand-ins for Azure's classes.

    Attributes:
        step: Name of the step.
        run_id: Name of the run directory.
        models: Paths by name.
        metrics_file: Path of the metrics file.
        mini_batch, attempt: Numbers of the running mini-batch and attempt; None and 0 outside run().
        refused: Message of the last NoAzureError, even if the script caught it; "" for none.
        is_script: This process runs an entry script: ``@parallel_run(…)`` must not make a step.
    """

    def __init__(self) -> None:
        self.step = self.run_id = self.metrics_file = ""
        self.models: Dict[str, str] = {}
        self.mini_batch: Optional[int] = None
        self.attempt = 0
        self.refused = ""
        self.is_script = False


current = Current()


@contextmanager
def as_script() -> Iterator[None]:
    """Run an entry script in this process, which is not a child: with the decorator as in a child until the block ends."""
    before, current.is_script = current.is_script, True
    try:
        yield
    finally:
        current.is_script = before


class Script:
    """An imported entry script."""

    def __init__(self, functions: Dict[str, Function]) -> None:
        self._init, self._run, self._shutdown = functions.get("init"), functions["run"], functions.get("shutdown")
        self._wants_context = wants_context(self._run)
        self._loop: "Optional[EventLoop]" = None  # from the first coroutine on

    @property
    def has_stuck_tasks(self) -> bool:
        """True when a task of an earlier mini-batch runs on although it was cancelled: the process must be replaced."""
        return self._loop is not None and bool(self._loop.stuck_tasks)

    def init(self) -> None:
        """Call the script's init(), if it has one."""
        if self._init is not None:
            self._resolve(self._init(), keeps_tasks=True)

    def run(self, mini_batch: Any, context: Any) -> Any:
        """Call run() with or without the context, by its signature.

        Raises:
            TaskNotCancelled: A task that it has started runs on although it was cancelled (event_loop.py).
        """
        arguments = (mini_batch, context) if self._wants_context else (mini_batch,)
        return self._resolve(self._run(*arguments))

    def shutdown(self) -> None:
        """Call the script's shutdown(), if it has one, and close its event loop."""
        try:
            if self._shutdown is not None:
                self._resolve(self._shutdown())
        finally:
            self.close()

    def close(self) -> None:
        """Close the script's event loop, without shutdown()."""
        if self._loop is not None:
            self._loop.close()

    def _resolve(self, value: Any, *, keeps_tasks: bool = False) -> Any:
        """Return the result of *value* if it is a coroutine, else *value*."""
        if not isinstance(value, Coroutine):
            return value
        if self._loop is None:
            from .event_loop import EventLoop  # noqa: PLC0415  asyncio takes 50 ms of a process's start

            self._loop = EventLoop()
        return self._loop.resolve(value, keeps_tasks=keeps_tasks)


def load(path: str, source: str, arguments: List[str], function: str = "", hooks: Optional[Dict[str, str]] = None) -> Script:
    """Import the script at *path* as a module and return it; *function* is the name of a step in it, "" for none.

    The step must have registered the same *hooks* as in the flow process, if they are given (see ``functions_of``).
    Sets ``sys.argv`` first and makes its folder and *source* importable. A script in a package (or in a sub-folder of *source*)
    gets a dotted name, so that its relative imports work.
    """
    folder = os.path.dirname(path)
    top, name = _module_name(path, source)
    for entry in dict.fromkeys((top, source, folder)):
        if entry not in sys.path:
            sys.path.insert(0, entry)
    sys.argv = [path, *arguments]
    return Script(functions_of(_import(name, path), function, hooks))


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
