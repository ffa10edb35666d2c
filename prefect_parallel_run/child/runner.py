"""One mini-batch after another: read its items, call run(), keep the rows, answer with a receipt."""

import os
import time
from typing import Any, Dict, List, Optional
from zlib import crc32

from .context import Context, EntryScript, current
from .encoding import WrongType, encode, materialise, row_count
from .failure import describe, fingerprint
from .part_file import Part
from .reading import BadRecord, FileList, Items, Reader
from .retry import RetryDirective, retry_directive
from .script import Script
from .shared_memory import GO, STOP, SharedStatus
from .storage import InputChanged, StoreFailure

_SUCCEEDED = "succeeded"
_NAP = 0.02  #: s between two looks at the order while the script wants to wait


class MiniBatchRunner:
    """Runs mini-batches in this process.

    Attributes:
        leaving: Once the script has asked for that, how this process goes: RESTART or STOP.
        not_before: When the next mini-batch may begin (monotonic clock, s).
    """

    def __init__(self, script: Script, board: SharedStatus, part: Optional[Part], settings: Dict[str, Any]) -> None:
        self._script, self._board, self._part = script, board, part
        self._format: str = settings["format"]
        self._header: bool = settings["header"]
        self._options: Dict[str, Any] = settings["csv_options"]
        self._reader = Reader()
        self._process = os.getpid()
        self._refused_at_start = current.refused
        self.leaving = ""
        self.not_before = 0.0

    def attempt(self, index: int, attempt: int, work: Dict[str, Any], piece: Optional[List[int]] = None) -> List[Any]:
        """Run one mini-batch and return its receipt, in the order of records.Receipt, or word that it was left undone.

        With a *piece* (a half-open range) only these of its items are run.
        """
        self._wait()
        started, begun = time.time(), time.monotonic()
        self._board.begin(index, begun)
        order = self._board.ordered  # behind begin(): board.py says why
        if order == STOP:  # what the mini-batch does would be lost with us
            os._exit(1)
        if order != GO:
            return ["back", index]
        start, stop = piece or (0, len(work["names"]) if "names" in work else work["rows"])
        items = stop - start
        outcome, failure, kept = _SUCCEEDED, None, (0, "", 0, 0, 0, 0)
        try:
            kept = self._run(index, attempt, work, piece)
        except InputChanged as error:
            outcome, failure = "input_changed", describe(error)._replace(final=True)  # the plan is frozen
        except WrongType as error:
            cause = fingerprint("WrongType", error.found, error.refused)  # whatever a string says: it may name the items
            outcome, failure = "wrong_type", describe(error)._replace(traceback="", fingerprint=cause)
        except OutputFailure as error:
            outcome, failure = "unwritable", describe(error)
        except (BadRecord, StoreFailure) as error:
            outcome, failure = "raised", describe(error)._replace(traceback="")
        except BaseException as error:  # noqa: BLE001  whatever the script raises, SystemExit too, is the try's outcome
            outcome, failure = "raised", describe(error)
            self._heed(retry_directive(error))
        if os.getpid() != self._process:
            os._exit(0)  # the script forked and its fork came back from run(): one of us must not answer
        succeeded = min(kept[0], items) if failure is None else 0
        receipt = [
            index,
            attempt,
            outcome,
            items,
            succeeded,
            items - succeeded,
            *kept,
            started,
            time.monotonic() - begun,
        ]
        if failure is not None:
            receipt += [
                "",
                self._process,
                failure.type,
                failure.text,
                failure.traceback,
                failure.fingerprint,
                failure.final,
            ]
        return receipt

    def _wait(self) -> None:
        """Sleep as long as the script has asked for. An order ends that; what is left of it counts for the next mini-batch."""
        while (left := self.not_before - time.monotonic()) > 0 and self._board.ordered == GO:
            time.sleep(min(left, _NAP))

    def _heed(self, wish: RetryDirective) -> None:
        """Take note of what the script asks for, and log it."""
        self.leaving = wish.leave
        if wish.leave:
            EntryScript.logger.info("this process ends, as the script asks (%s)", wish.leave)
        if wish.pause:
            self.not_before = time.monotonic() + wish.pause
            EntryScript.logger.info("the next mini-batch waits %g s, as the script asks", wish.pause)

    def _run(
        self, index: int, attempt: int, work: Dict[str, Any], piece: Optional[List[int]]
    ) -> "tuple[int, str, int, int, int, int]":
        """Return rows, part, offset, header, length and checksum."""
        items: Items = self._reader.read(work, piece)
        if isinstance(items.value, FileList):
            items.value.task_id = str(index)
        current.mini_batch, current.attempt, current.refused = index, attempt, self._refused_at_start
        context = Context(index, work["input"], attempt, work.get("partition_key_value"))
        self._board.begin(index, time.monotonic())  # the time limit is that of run(): reading has had one of its own
        try:
            result = materialise(self._script.run(items.value, context))
        finally:
            current.mini_batch = None
        if self._part is None:
            return row_count(result), "", 0, 0, 0, 0
        rows, header, body = encode(result, self._format, self._header, self._options)
        try:
            offset = self._part.append(header, body)
        except OSError as error:
            raise OutputFailure(f"{self._part.path}: {error.strerror}") from error
        return rows, self._part.name, offset, len(header), len(header) + len(body), crc32(body, crc32(header))


class OutputFailure(Exception):  # noqa: N818  its name is shown to the user as the error's type
    """Rows could not be written to the part file."""
