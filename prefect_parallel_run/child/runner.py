"""Runs mini-batches one by one: read the items, call run(), append the rows to the part, return a receipt."""

import os
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple
from zlib import crc32

from .channel import GO, STOP, SharedStatus
from .entry_script import Context, EntryScript, Script, current
from .failure import RESTART, Failure, RetryDirective, describe, fingerprint, retry_directive
from .input_columns import InputColumns, UnmatchedRows
from .read_ahead import ReadAhead
from .reading import BadRecord, FileList, Reader
from .receipt import NO_ROWS, Outcome, Receipt, Rows, success
from .rows import WrongType, encode, materialize
from .storage import InputChanged, StoreFailure

_POLL_INTERVAL = 0.02  #: s between two reads of the command during a pause


class Part:
    """The file that a process appends its rows to, created on first use. A range of it counts once its receipt is committed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self._descriptor = -1
        self._end = 0

    def append(self, header: bytes, body: bytes) -> int:
        """Append both and return their offset. After an error, the next call writes at the same offset."""
        if self._descriptor < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
            self._descriptor = os.open(self.path, flags, 0o666)
        data = header + body if header else body
        offset, written = self._end, 0
        while written < len(data):
            written += os.pwrite(self._descriptor, data[written:] if written else data, offset + written)
        self._end += len(data)
        return offset


class MiniBatchRunner:
    """Runs mini-batches in this process.

    Args:
        next_message: Returns the message that the slot has sent after the current one, or None.

    Attributes:
        leaving: RESTART or STOP, once the script has asked for it, or a task of it cannot be cancelled: the process exits.
        not_before: Earliest start of the next mini-batch (monotonic clock, s).
    """

    def __init__(self, script: Script, status: SharedStatus, settings: Dict[str, Any], next_message: Callable[[], Any]) -> None:
        self._script, self._status = script, status
        self._part = Part(settings["part"]) if settings["part"] else None
        self._format: str = settings["format"]
        self._header: bool = settings["header"]
        self._options: Dict[str, Any] = settings["csv_options"]
        self._input_columns: List[str] = settings["input_columns"]
        self._read = ReadAhead(Reader(), next_message, uses_memory=not settings["memory_is_limited"]).read
        self._process = os.getpid()
        self._refused_at_start = current.refused
        self.leaving = ""
        self.not_before = 0.0

    def attempt(self, index: int, attempt: int, work: Dict[str, Any], piece: Optional[List[int]] = None) -> Sequence[Any]:
        """Run one mini-batch and return its receipt, or ["back", index] if it was recalled.

        With a *piece* (a half-open range), run only these of its items.
        """
        self._wait()
        started, began = time.time(), time.monotonic()
        self._status.begin(index, began)
        command = self._status.command  # after begin(), see channel.py
        if command == STOP:  # the result would be lost: the slot is about to kill this process
            os._exit(1)
        if command != GO:
            return ["back", index]
        start, stop = piece or (0, len(work["names"]) if "names" in work else work["rows"])
        items = stop - start
        outcome, failure, rows = Outcome.SUCCEEDED, None, NO_ROWS
        try:
            rows = self._run(index, attempt, work, piece)
        except BaseException as error:  # noqa: BLE001  any exception of the script, SystemExit too, is the attempt's outcome
            outcome, failure = self._failed(error)
        if os.getpid() != self._process:
            os._exit(0)  # the script forked and the fork returned from run() too: only one process may answer
        if self._script.has_stuck_tasks and not self.leaving:
            self.leaving = RESTART
        seconds = time.monotonic() - began
        if failure is None:
            return success(index, attempt, items, rows, started, seconds)
        return Receipt.of_failure(
            index,
            attempt,
            outcome,
            items=items,
            started=started,
            seconds=seconds,
            error_type=failure.type,
            error=failure.text,
            traceback=failure.traceback,
            fingerprint=failure.fingerprint,
            final=failure.final,
            retry_after=failure.retry_after,
        )

    def _failed(self, error: BaseException) -> Tuple[Outcome, Failure]:
        """Return how an attempt with this error ended; stores what the script asks for with it."""
        failure = describe(error)
        if isinstance(error, InputChanged):
            return Outcome.INPUT_CHANGED, failure._replace(final=True)  # the plan is frozen
        if isinstance(error, WrongType):
            cause = fingerprint("WrongType", error.found, error.refused)  # without a string's text, which may name the items
            return Outcome.WRONG_TYPE, failure._replace(traceback="", fingerprint=cause)
        if isinstance(error, OutputFailure):
            return Outcome.UNWRITABLE, failure
        if isinstance(error, (BadRecord, StoreFailure, UnmatchedRows)):
            return Outcome.RAISED, failure._replace(traceback="")
        self._apply(retry_directive(error))
        return Outcome.RAISED, failure

    def _wait(self) -> None:
        """Wait for the pause that the script asked for. A command interrupts it; the next mini-batch waits for the rest."""
        while (remaining := self.not_before - time.monotonic()) > 0 and self._status.command == GO:
            time.sleep(min(remaining, _POLL_INTERVAL))

    def _apply(self, directive: RetryDirective) -> None:
        self.leaving = directive.leave
        if directive.leave:
            EntryScript.logger.info("this process exits at the script's request (%s)", directive.leave)
        if directive.pause:
            self.not_before = time.monotonic() + directive.pause
            EntryScript.logger.info("the next mini-batch waits %g s at the script's request", directive.pause)

    def _run(self, index: int, attempt: int, work: Dict[str, Any], piece: Optional[List[int]]) -> Rows:
        items = self._read(work, piece)
        if isinstance(items, FileList):
            items.task_id = str(index)
        current.mini_batch, current.attempt, current.refused = index, attempt, self._refused_at_start
        inputs = InputColumns(self._input_columns, items, work, piece) if self._input_columns else None
        context = Context(index, work["input"], attempt, work.get("partition_key_value"))
        self._status.begin(index, time.monotonic())  # the time limit applies to run(): reading has had a limit of its own
        try:
            result = materialize(self._script.run(items, context))
        finally:
            current.mini_batch = None
        if self._part is None:
            return (len(result), *NO_ROWS[1:])
        rows, header, body = encode(result, self._format, self._header, self._options, inputs)
        try:
            offset = self._part.append(header, body)
        except OSError as error:
            raise OutputFailure(f"{self._part.path}: {error.strerror}") from error
        return rows, self._part.name, offset, len(header), len(header) + len(body), crc32(body, crc32(header))


class OutputFailure(Exception):  # noqa: N818  its name is shown to the user as the error's type
    """Rows could not be written to the part file."""
