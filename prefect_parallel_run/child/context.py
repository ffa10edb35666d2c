"""The names that an entry script may import: EntryScript, the mini-batch context and NoRetry."""

import logging
from typing import Any, Dict, Optional


class NoRetry(Exception):  # noqa: N818  the name is the contract's
    """Raised by an entry script when another attempt cannot help: the mini-batch fails immediately."""


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
    """The environment of the script; a singleton. Source: CONTRACT.md 4.

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
    """

    def __init__(self) -> None:
        self.step = self.run_id = self.metrics_file = ""
        self.models: Dict[str, str] = {}
        self.mini_batch: Optional[int] = None
        self.attempt = 0
        self.refused = ""


current = Current()
