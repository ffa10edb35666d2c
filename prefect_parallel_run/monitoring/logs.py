"""Log lines of a run: nodes, progress, the first failure of each cause with its traceback, pauses in scheduling."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from prefect_parallel_run.dispatch.script_logs import ScriptLine
from prefect_parallel_run.models import Breach, Receipt, Tally
from prefect_parallel_run.monitoring.progress import LogThrottle, progress_message
from prefect_parallel_run.monitoring.progress_tracker import ProgressTracker
from prefect_parallel_run.node.child_startup import StartFailure
from prefect_parallel_run.node.settings import NodeFacts

if TYPE_CHECKING:
    Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]
else:  # Python 3.10 cannot subscript the adapter
    Logger = logging.Logger
_NEXT_STEPS = {"waiting": "it will be retried", "isolating": "its items are run separately"}
_MAX_CAUSES = 20  #: further causes are in the ledger and in the table of failures


class RunLog:
    """Logs the events of one run."""

    def __init__(
        self, logger: Logger, tracker: ProgressTracker | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger, self._clock = logger, clock
        self._tracker = tracker or ProgressTracker(Tally(), clock)
        self._throttle = LogThrottle(clock())
        self._causes: set[str] = set()

    def node_joined(self, node_info: NodeFacts) -> None:
        """Log a node that opened."""
        message = "%s opened on %s; processes: %d, cores: %d, GPUs: %d"
        counts = (node_info.slots, node_info.cores, node_info.gpus)
        self._logger.info(message, node_info.node, node_info.host, *counts, extra={"action": "node_joined"})

    def node_left(self, node: str) -> None:
        """Log a lost node."""
        self._logger.warning("lost %s; its mini-batches were rescheduled", node, extra={"action": "node_left"})

    def node_released(self, node: str) -> None:
        """Log a node that was idle and was released."""
        self._logger.info("released idle node %s", node, extra={"action": "node_released"})

    def slot_failed(self, node: str, failure: StartFailure) -> None:
        """Log a process that could not start."""
        error = escape_control_chars(f"{failure.error_type}: {failure.error}\n{failure.traceback}".rstrip())
        message = "a process on %s could not start the entry script (%s): %s"
        self._logger.warning(message, node, failure.stage, error, extra={"action": "slot_failed"})

    def tried(self, receipt: Receipt, state: str) -> None:
        """Log the first failure of each cause; a million failures of one cause are one line."""
        if receipt.fingerprint in self._causes or len(self._causes) >= _MAX_CAUSES:
            return
        self._causes.add(receipt.fingerprint)
        next_step = _NEXT_STEPS.get(state, "no attempts left")
        self._logger.warning(
            "mini-batch %d failed at attempt %d on %s (%s), %s: %s: %s%s",
            receipt.mini_batch,
            receipt.attempt,
            receipt.node,
            receipt.outcome,
            next_step,
            escape_control_chars(receipt.error_type),
            escape_control_chars(receipt.error),
            f"\n{escape_control_chars(receipt.traceback)}" if receipt.traceback else "",
            extra={"action": "attempt_failed", "mini_batch": receipt.mini_batch, "attempt": receipt.attempt},
        )

    def progressed(self, tally: Tally) -> None:
        """Log the counts every 30 s or 5 %."""
        snapshot = self._tracker.snapshot(tally)
        if not snapshot.is_paused and self._throttle.is_due(tally, self._clock()):  # a paused run makes no progress
            self._logger.info("%s", progress_message(snapshot), extra={"action": "progress"})

    def held(self, breach: Breach | None) -> None:
        """Log that scheduling pauses near a limit, or resumes for None."""
        if breach is None:
            self._logger.info("resumed scheduling of new mini-batches", extra={"action": "released"})
        else:
            message = "%s = %g would be exceeded if the pending attempts failed: no new mini-batch starts until they are done"
            self._logger.warning(message, breach.limit, breach.allowed, extra={"action": "held"})

    def script_said(self, line: ScriptLine) -> None:
        """Log a line of the entry script at its own level."""
        self._logger.log(line.level, "%s: %s", line.process, escape_control_chars(line.text), extra={"action": "script_said"})

    def script_left_out(self, lines: int) -> None:
        """Log how many lines of the entry script were left out, and where they are."""
        message = "%d more lines logged by the entry script are in logs/*.log of the run directory"
        self._logger.info(message, lines, extra={"action": "script_left_out"})

    def ordered(self, order: str, by: str, answer: str) -> None:
        """Log a control command, who sent it, and its result."""
        self._logger.info(
            "%s sent the command %s: %s",
            escape_control_chars(by),
            escape_control_chars(order),
            answer,
            extra={"action": "ordered"},
        )

    def noted(self, text: str) -> None:
        """Log *text* as information."""
        self._logger.info("%s", escape_control_chars(text), extra={"action": "noted"})

    def warned(self, text: str) -> None:
        """Log *text* as a warning."""
        self._logger.warning("%s", escape_control_chars(text), extra={"action": "warning"})


def escape_control_chars(text: str) -> str:
    r"""Return *text* with control characters escaped; a terminal would act on them. Newlines and tabs stay.

    >>> escape_control_chars("\x1b[2Jgone?\n")
    '\\x1b[2Jgone?\n'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)
