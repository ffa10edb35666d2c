"""What can go wrong, one class per thing a caller could act on. The facts travel as arguments, so every error pickles."""

from __future__ import annotations


class ParallelRunError(Exception):
    """Base of everything this package raises, except a wrong configuration, which is pydantic's ``ValueError``."""


_SHOWN = 3  #: files that an error names
_ONE_TYPE = (
    "give the rows of every mini-batch the same columns and types, in run() or with the dataset's column_types, and run the"
    " step again; to resume this run would only put the same rows together"
)


def _some(files: tuple[str, ...]) -> str:
    more = len(files) - _SHOWN
    return ", ".join(files[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


class LimitExceededError(ParallelRunError):
    """More failed than the configuration forgives.

    Args:
        limit: Name of the configuration field.
        allowed: What the field forgives: items, mini-batches or percent.
        actual: What was counted, in the same unit.
        run_directory: Where the ledger of the run is kept, to go on from.
        example: The first failure, as one line; empty when unknown.
    """

    def __init__(self, limit: str, allowed: float, actual: float, run_directory: str = "", example: str = "") -> None:
        super().__init__(limit, allowed, actual, run_directory, example)
        self.limit, self.allowed, self.actual = limit, allowed, actual
        self.run_directory, self.example = run_directory, example

    def __str__(self) -> str:
        unit = {"error_threshold": "failed items", "allowed_failed_count": "failed mini-batches"}.get(
            self.limit, "% of the mini-batches failed"
        )
        words = f"{self.limit} exceeded: {self.actual:g} {unit}, {self.allowed:g} allowed"
        if self.example:
            words += f"; first failure: {self.example}"
        if self.run_directory:
            words += f"; details and logs: {self.run_directory}"
        return words


class EntryScriptError(ParallelRunError):
    """The entry script could not be started in any process: it is missing, fails to import, or its init() fails."""

    def __init__(self, script: str, reason: str, details: str = "") -> None:
        super().__init__(script, reason, details)
        self.script, self.reason, self.details = script, reason, details

    def __str__(self) -> str:
        words = f"entry script {self.script}: {self.reason}"
        return f"{words}\n{self.details}" if self.details else words


class InputError(ParallelRunError):
    """An input is missing, empty, unreadable or of the wrong kind; *path* is the file or pattern it is about."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"input {self.path}: {self.reason}"


class NoRunError(InputError):
    """There is no run where one was looked for, or the run has no such mini-batch; *path* is its directory."""

    def __str__(self) -> str:
        return f"run {self.path}: {self.reason}"


class InputChangedError(ParallelRunError):
    """What a run directory was planned for is not what is there now; *changes* has one line per difference."""

    def __init__(self, run_directory: str, changes: tuple[str, ...]) -> None:
        super().__init__(run_directory, changes)
        self.run_directory, self.changes = run_directory, changes

    def __str__(self) -> str:
        return f"run {self.run_directory} was planned for something else: " + "; ".join(self.changes)


class OutputError(ParallelRunError):
    """The output cannot be written, or what was written is not what the ledger says."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"output {self.path}: {self.reason}"


class RunFileError(OutputError):
    """A file of a run directory cannot be read, or is not what the run wrote; *path* is the file."""

    def __str__(self) -> str:
        advice = "restore the run directory from a copy, or delete it and run the step again from the beginning"
        return f"run file {self.path}: {self.reason}; {advice}"


class RowsDifferError(OutputError):
    """The rows of two mini-batches cannot stand in one result file: their columns differ in name, order or type.

    Args:
        path: The result file; empty until that is known.
        reason: How they differ.
        mini_batch: Whose rows do not fit.
        files: That its rows were made from; empty until they are known.
        other: A mini-batch whose rows it does not fit.
        other_files: That those were made from.
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
        read = [(self.mini_batch, self.files), (self.other, self.other_files)]
        where = "".join(f"; mini-batch {number} is of {_some(files)}" for number, files in read if files)
        return f"{super().__str__()}{where}; {_ONE_TYPE}"


class RunLockedError(ParallelRunError):
    """Another flow process is working in the run directory."""

    def __init__(self, run_directory: str, owner: str, host: str) -> None:
        super().__init__(run_directory, owner, host)
        self.run_directory, self.owner, self.host = run_directory, owner, host

    def __str__(self) -> str:
        return f"run {self.run_directory} is being driven by {self.owner} on {self.host}; wait for it, or cancel it there"


class NothingSucceededError(ParallelRunError):
    """append_row had items, and not one of them succeeded, so there is nothing to publish."""

    def __init__(self, items: int, run_directory: str = "", example: str = "") -> None:
        super().__init__(items, run_directory, example)
        self.items, self.run_directory, self.example = items, run_directory, example

    def __str__(self) -> str:
        words = f"not one of {self.items} items succeeded, nothing to publish"
        if self.example:
            words += f"; first failure: {self.example}"
        if self.run_directory:
            words += f"; details and logs: {self.run_directory}"
        return words


class ComputeTargetError(ParallelRunError):
    """The cluster could not be opened, or was lost; the ledger is kept and a retry goes on from it."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(target, reason)
        self.target, self.reason = target, reason

    def __str__(self) -> str:
        return f"compute target {self.target}: {self.reason}"


class PrefectHomeError(ParallelRunError):
    """Prefect's home, ``PREFECT_HOME``, cannot be written; *path* is that folder."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return (
            f"PREFECT_HOME is {self.path}, which cannot be written: {self.reason}; expected a folder in which this user can"
            " create files; set the environment variable PREFECT_HOME to one"
        )


class EnvironmentSetupError(ParallelRunError):
    """The environment the script should run in does not exist or could not be built."""

    def __init__(self, environment: str, reason: str) -> None:
        super().__init__(environment, reason)
        self.environment, self.reason = environment, reason

    def __str__(self) -> str:
        return f"environment {self.environment}: {self.reason}"
