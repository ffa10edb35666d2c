"""Log lines of a run: start, progress, the first failure of each cause with its traceback, what is held, the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from prefect_parallel_run.dispatch.script_logs import ScriptLine
from prefect_parallel_run.models import Breach, Receipt, Tally
from prefect_parallel_run.monitoring.progress import LogThrottle, sentence
from prefect_parallel_run.monitoring.progress_tracker import ProgressTracker
from prefect_parallel_run.node.child_startup import StartFailure
from prefect_parallel_run.node.settings import NodeFacts

if TYPE_CHECKING:
    Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]
else:  # Python 3.10 cannot subscript the adapter
    Logger = logging.Logger
_AFTERWARDS = {"waiting": "it will be tried again", "isolating": "its items are tried apart"}
_CAUSES_TOLD = 20  #: further causes are in the ledger and in the table of failures


class RunLog:
    """Writes one run's events to a logger."""

    def __init__(
        self, logger: Logger, course: ProgressTracker | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger, self._clock = logger, clock
        self._course = course or ProgressTracker(Tally(), clock)
        self._pace = LogThrottle(clock())
        self._causes: set[str] = set()

    def node_joined(self, facts: NodeFacts) -> None:
        """Tell that a node opened."""
        words = "%s opened on %s; processes: %d, cores: %d, GPUs: %d"
        counts = (facts.slots, facts.cores, facts.gpus)
        self._logger.info(words, facts.node, facts.host, *counts, extra={"action": "node_joined"})

    def node_left(self, node: str) -> None:
        """Tell that a node was lost."""
        self._logger.warning("%s was lost; what it was doing goes to others", node, extra={"action": "node_left"})

    def node_released(self, node: str) -> None:
        """Tell that a node was given back."""
        self._logger.info("%s had nothing more to do, and was given back", node, extra={"action": "node_released"})

    def slot_failed(self, node: str, failure: StartFailure) -> None:
        """Tell that a process could not be started."""
        text = escape_control_chars(f"{failure.error_type}: {failure.error}\n{failure.traceback}".rstrip())
        words = "a process on %s could not start the entry script (%s): %s"
        self._logger.warning(words, node, failure.stage, text, extra={"action": "slot_failed"})

    def tried(self, receipt: Receipt, state: str) -> None:
        """Tell the first failure of each cause."""
        if receipt.fingerprint in self._causes or len(self._causes) >= _CAUSES_TOLD:
            return
        self._causes.add(receipt.fingerprint)
        after = _AFTERWARDS.get(state, "no try is left")
        self._logger.warning(
            "mini-batch %d failed at try %d on %s (%s), %s: %s: %s%s",
            receipt.mini_batch,
            receipt.attempt,
            receipt.node,
            receipt.outcome,
            after,
            escape_control_chars(receipt.error_type),
            escape_control_chars(receipt.error),
            f"\n{escape_control_chars(receipt.traceback)}" if receipt.traceback else "",
            extra={"action": "attempt_failed", "mini_batch": receipt.mini_batch, "attempt": receipt.attempt},
        )

    def progressed(self, tally: Tally) -> None:
        """Tell the counts every 30 s, or 5 %."""
        going = self._course.going(tally)
        if not going.is_paused and self._pace.is_due(tally, self._clock()):  # else it has nothing to tell
            self._logger.info("%s", sentence(going), extra={"action": "progress"})

    def held(self, breach: Breach | None) -> None:
        """Tell that new mini-batches are held back, or handed out again."""
        if breach is None:
            self._logger.info("new mini-batches are handed out again", extra={"action": "released"})
        else:
            words = "%s = %g would be exceeded if the pending tries failed: no new mini-batch until they are done"
            self._logger.warning(words, breach.limit, breach.allowed, extra={"action": "held"})

    def script_said(self, line: ScriptLine) -> None:
        """Tell what the entry script has logged, at its own level."""
        self._logger.log(line.level, "%s: %s", line.process, escape_control_chars(line.text), extra={"action": "script_said"})

    def script_left_out(self, lines: int) -> None:
        """Tell how much more of that there is, and where."""
        words = "%d more lines that the entry script has logged are in logs/*.log of the run directory"
        self._logger.info(words, lines, extra={"action": "script_left_out"})

    def ordered(self, order: str, by: str, answer: str) -> None:
        """Tell what a person has ordered, and what comes of it."""
        self._logger.info(
            "%s ordered %s: %s", escape_control_chars(by), escape_control_chars(order), answer, extra={"action": "ordered"}
        )

    def noted(self, text: str) -> None:
        """Pass on what is no warning."""
        self._logger.info("%s", escape_control_chars(text), extra={"action": "noted"})

    def warned(self, text: str) -> None:
        """Pass a warning on."""
        self._logger.warning("%s", escape_control_chars(text), extra={"action": "warning"})


def escape_control_chars(text: str) -> str:
    r"""Return *text* without what a terminal would act on; line ends and tabs stay.

    >>> escape_control_chars("\x1b[2Jgone?\n")
    '\\x1b[2Jgone?\n'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)
