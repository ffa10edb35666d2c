"""What an entry script can ask about its surroundings: EntryScript, the mini-batch context, and NoRetry."""

import logging
from typing import Any, Dict, Optional


class NoRetry(Exception):  # noqa: N818  the name is the contract's
    """Raised by an entry script to say that another try cannot help: the mini-batch fails at once."""


class Context:
    """What run(mini_batch, context) is told about the call.

    Attributes:
        minibatch_index: Number of the mini-batch in the plan, from 0.
        dataset: Name of the input it was cut from.
        partition_key_value: Its partition keys and their values, in the order of ``partition_keys``; None without.
        try_number: 1 on the first try.
        retry_count: 0 on the first try.
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
        """Tries before this one."""
        return self.try_number - 1

    def __repr__(self) -> str:
        return f"Context(minibatch_index={self.minibatch_index}, dataset={self.dataset!r}, try_number={self.try_number})"


class ScriptLogger(logging.Logger):
    """A logger that logging.config does not reach: it would disable every logger that it does not configure.

    It hands its records to the root logger's handlers as long as ``propagate`` is true, like any other logger.
    """

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  logging's name
        """Return whether records of *level* are written; logging caches this, and the root logger would not clear our cache."""
        return not self.disabled and level > logging.root.manager.disable and level >= self.getEffectiveLevel()

    def __reduce__(self) -> Any:  # as logging does it: another process has a logger of this name
        return logging.getLogger, (self.name,)

    def __deepcopy__(self, _: Any) -> "ScriptLogger":
        return self


_LOGGERS = logging.Manager(logging.root)  # of our own: logging.config goes through that of the root logger
_LOGGERS.setLoggerClass(ScriptLogger)


class EntryScript:
    """The script's surroundings; there is one instance. Source: CONTRACT.md 4.

    Attributes:
        agent_name: Name of this process, the one in the names of its logs.
        dir: Folder of the entry script.
        logger: Writes to this process's entry-script log under ``log_dir``, from ``logging_level`` on.
        log_dir: Folder for logs of this run.
        working_dir: Private scratch folder of this process, its working directory, removed at its end.
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

    _only: "Optional[EntryScript]" = None

    def __new__(cls, *_: Any, **__: Any) -> "EntryScript":
        """Return the one instance; Azure's takes a logging level, which is the step's here."""
        if EntryScript._only is None:
            EntryScript._only = super().__new__(cls)
        return EntryScript._only


class Current:
    """What this process works on; the stand-ins for Azure's classes tell the script of it.

    Attributes:
        step: Name of the step.
        run_id: Name of the run directory.
        models: Paths by name.
        metrics_file: Where metrics go.
        mini_batch, attempt: That is running; None, 0 outside run().
        refused: Message of the last NoAzureError that was raised, whether the script caught it or not; "" for none.
    """

    def __init__(self) -> None:
        self.step = self.run_id = self.metrics_file = ""
        self.models: Dict[str, str] = {}
        self.mini_batch: Optional[int] = None
        self.attempt = 0
        self.refused = ""


current = Current()
