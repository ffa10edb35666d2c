"""Errors: one class per thing a caller can act on. Their facts are attributes and arguments, so every error pickles."""

from __future__ import annotations

from prefect_parallel_run._units import count


class ParallelRunError(Exception):
    """Base of everything this package raises, except for an invalid configuration, which is pydantic's ``ValueError``."""


_MAX_FILES = 3  #: files that an error names
_SAME_TYPES = (
    "return the same columns and types for every mini-batch, in run() or with the dataset's column_types, and run the step"
    " again; resuming this run would combine the same rows again"
)


def _first(files: tuple[str, ...]) -> str:
    more = len(files) - _MAX_FILES
    return ", ".join(files[:_MAX_FILES]) + (f" and {more} more" if more > 0 else "")


def _with_failure(message: str, example: str, run_directory: str) -> str:
    if example:
        message += f"; first failure: {example}"
    return f"{message}; details and logs: {run_directory}" if run_directory else message


class _PathError(ParallelRunError):
    """Something is wrong with *path*; ``_kind`` is the noun in front of it."""

    _kind = ""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self._kind} {self.path}: {self.reason}"


class LimitExceededError(ParallelRunError):
    """More failures than a limit of the configuration allows.

    Args:
        limit: Name of the configuration field.
        allowed: The limit: items, mini-batches or percent.
        actual: The count, in the same unit.
        run_directory: Directory of the run, which can be resumed.
        example: The first failure, as one line; empty if unknown.
    """

    def __init__(self, limit: str, allowed: float, actual: float, run_directory: str = "", example: str = "") -> None:
        super().__init__(limit, allowed, actual, run_directory, example)
        self.limit, self.allowed, self.actual = limit, allowed, actual
        self.run_directory, self.example = run_directory, example

    def __str__(self) -> str:
        nouns = {"error_threshold": ("failed item",), "allowed_failed_count": ("failed mini-batch", "failed mini-batches")}
        if self.limit in nouns:
            figures = f"{count(self.actual, *nouns[self.limit])}, {count(self.allowed)} allowed"
        else:
            figures = f"{self.actual:g} % of the mini-batches failed, {self.allowed:g} allowed"
        return _with_failure(f"{self.limit} exceeded: {figures}", self.example, self.run_directory)


class EntryScriptError(ParallelRunError):
    """The entry script could not start in any process: it is missing, fails to import, or its init() fails."""

    def __init__(self, script: str, reason: str, details: str = "") -> None:
        super().__init__(script, reason, details)
        self.script, self.reason, self.details = script, reason, details

    def __str__(self) -> str:
        message = f"entry script {self.script}: {self.reason}"
        return f"{message}\n{self.details}" if self.details else message


class InputError(_PathError):
    """An input is missing, empty, unreadable or of the wrong kind; *path* is the file or pattern."""

    _kind = "input"


class NoRunError(InputError):
    """The run does not exist, or lacks the mini-batch; *path* is its directory."""

    _kind = "run"


class InputChangedError(ParallelRunError):
    """The inputs, script or arguments of a run have changed since it was planned; *changes* has one line per difference."""

    def __init__(self, run_directory: str, changes: tuple[str, ...]) -> None:
        super().__init__(run_directory, changes)
        self.run_directory, self.changes = run_directory, changes

    def __str__(self) -> str:
        return f"run {self.run_directory} was planned for a different input or script: " + "; ".join(self.changes)


class OutputError(_PathError):
    """The output cannot be written, or differs from the ledger."""

    _kind = "output"


class RunFileError(OutputError):
    """A file of a run directory cannot be read, or has been altered; *path* is the file."""

    _kind = "run file"

    def __str__(self) -> str:
        return f"{super().__str__()}; restore the run directory from a copy, or delete it and start a new run"


class RowsDifferError(OutputError):
    """The rows of two mini-batches do not fit into one result file: their columns differ in name, order or type.

    Args:
        path: The result file; empty until it is known.
        reason: The difference.
        mini_batch: The mini-batch whose rows do not fit.
        files: Its source files; empty until they are known.
        other: A mini-batch with different rows.
        other_files: Its source files.
    """

    def __init__(
        self,
        path: str,
        reason: str,
        mini_batch: int,
        files: tuple[str, ...] = (),
        other: int | None = None,
        other_files: tuple[str, ...] = (),
    ) -> None:
        super().__init__(path, reason)
        self.args = (path, reason, mini_batch, files, other, other_files)
        self.mini_batch, self.files, self.other, self.other_files = mini_batch, files, other, other_files

    def __str__(self) -> str:
        batches = [(self.mini_batch, self.files), (self.other, self.other_files)]
        sources = "".join(f"; mini-batch {number} reads {_first(files)}" for number, files in batches if files)
        return f"{super().__str__()}{sources}; {_SAME_TYPES}"


class RunLockedError(ParallelRunError):
    """Another flow process has locked the run directory."""

    def __init__(self, run_directory: str, owner: str, host: str) -> None:
        super().__init__(run_directory, owner, host)
        self.run_directory, self.owner, self.host = run_directory, owner, host

    def __str__(self) -> str:
        return f"run {self.run_directory} is locked by {self.owner} on {self.host}; wait for it, or cancel it there"


class NothingSucceededError(ParallelRunError):
    """No item of an append_row step succeeded, so there is nothing to publish."""

    def __init__(self, items: int, run_directory: str = "", example: str = "") -> None:
        super().__init__(items, run_directory, example)
        self.items, self.run_directory, self.example = items, run_directory, example

    def __str__(self) -> str:
        message = f"0 of {count(self.items, 'item')} succeeded; nothing to publish"
        return _with_failure(message, self.example, self.run_directory)


class ComputeTargetError(ParallelRunError):
    """The cluster could not be opened, or was lost; the ledger is kept, and a retry resumes from it."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(target, reason)
        self.target, self.reason = target, reason

    def __str__(self) -> str:
        return f"compute target {self.target}: {self.reason}"


class PrefectHomeError(_PathError):
    """Prefect's home, ``PREFECT_HOME``, is not writable; *path* is that folder."""

    def __str__(self) -> str:
        return (
            f"PREFECT_HOME is {self.path}, which is not writable: {self.reason}; set the environment variable PREFECT_HOME to a"
            " folder in which this user can create files"
        )


class EnvironmentSetupError(ParallelRunError):
    """The environment of the script does not exist or could not be built."""

    def __init__(self, environment: str, reason: str) -> None:
        super().__init__(environment, reason)
        self.environment, self.reason = environment, reason

    def __str__(self) -> str:
        return f"environment {self.environment}: {self.reason}"
