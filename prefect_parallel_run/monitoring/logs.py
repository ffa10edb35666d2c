"""Log lines of a run: nodes, progress, the first failure of each cause with its traceback, pauses in scheduling."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from prefect_parallel_run._units import MINI_BATCHES, count
from prefect_parallel_run.models import Receipt, Tally
from prefect_parallel_run.monitoring.progress import LogThrottle, ProgressTracker, progress_message
from prefect_parallel_run.runs.events import (
    AttemptFailed,
    CommandHandled,
    NodeJoined,
    NodeLost,
    NodeReleased,
    Noted,
    Progressed,
    RunEvent,
    RunStarted,
    SchedulingPaused,
    SchedulingResumed,
    ScriptLinesDropped,
    ScriptLogged,
    SlotFailed,
    StepReturned,
    Warned,
)

if TYPE_CHECKING:
    Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]
else:  # Python 3.10 cannot subscript the adapter
    Logger = logging.Logger
_NEXT_STEPS = {"waiting": "it will be retried", "isolating": "its items are run separately"}
_MAX_CAUSES = 20  #: further causes are in the ledger and in the table of failures


class RunLog:
    """Logs the events of one run."""

    def __init__(
        self, step: str, logger: Logger, tracker: ProgressTracker, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._step, self._logger, self._tracker, self._clock = step, logger, tracker, clock
        self._throttle = LogThrottle(clock())
        self._causes: set[str] = set()

    def handle(self, event: RunEvent) -> None:
        """Log *event*, if it is worth a line."""
        match event:
            case RunStarted():
                self._log_start(event)
            case StepReturned(result):
                self._info("reused" if result.reused else "ended", "%s", result)
            case Progressed(tally):
                self._log_progress(tally)
            case AttemptFailed(receipt, state):
                self._log_failure(receipt, state)
            case NodeJoined() | NodeLost() | NodeReleased() | SlotFailed():
                self._log_node(event)
            case SchedulingPaused(breach):
                message = (
                    "%s = %g would be exceeded if the pending attempts failed: no new mini-batch starts until they are done"
                )
                self._warning("held", message, breach.limit, breach.allowed)
            case SchedulingResumed():
                self._info("released", "resumed scheduling of new mini-batches")
            case ScriptLogged(level, process, text):
                self._logger.log(level, "%s: %s", process, escape_control_chars(text), extra={"action": "script_said"})
            case ScriptLinesDropped(lines):
                message = "%d more lines logged by the entry script are in logs/*.log of the run directory"
                self._info("script_left_out", message, lines)
            case CommandHandled(command, sender, answer):
                names = (escape_control_chars(sender), escape_control_chars(command))
                self._info("ordered", "%s sent the command %s: %s", *names, answer)
            case Noted(text):
                self._info("noted", "%s", escape_control_chars(text))
            case Warned(text):
                log_warning(self._logger, text)

    def _log_start(self, event: RunStarted) -> None:
        """Log the planned mini-batches and those already finished."""
        tally = event.tally
        self._throttle = LogThrottle(self._clock())
        link = f"; Dask dashboard {event.dashboard}" if event.dashboard else ""
        suffix = " so far, the input is still being listed" if tally.is_growing else ""
        counts = (count(tally.planned, *MINI_BATCHES), count(tally.items, "item"), suffix)
        self._info("began", "%s: %s, %s%s; run directory %s%s", self._step, *counts, event.directory.path, link)
        if tally.finished or tally.waiting:
            planned = count(tally.planned, *MINI_BATCHES)
            self._info(
                "resumed", "resuming: %d of %s already finished, %d awaiting retry", tally.finished, planned, tally.waiting
            )

    def _log_node(self, event: NodeJoined | NodeLost | NodeReleased | SlotFailed) -> None:
        match event:
            case NodeJoined(facts):
                message = "%s opened on %s; processes: %d, cores: %d, threads per process: %s, GPUs: %d"
                self._info("node_joined", message, facts.node, facts.host, facts.slots, facts.cores, facts.threads, facts.gpus)
            case NodeLost(node):
                self._warning("node_left", "lost %s; its mini-batches were rescheduled", node)
            case NodeReleased(node):
                self._info("node_released", "released idle node %s", node)
            case SlotFailed(node, failure):
                error = escape_control_chars(f"{failure.error_type}: {failure.error}\n{failure.traceback}".rstrip())
                message = "a process on %s could not start the entry script (%s): %s"
                self._warning("slot_failed", message, node, failure.stage, error)

    def _log_failure(self, receipt: Receipt, state: str) -> None:
        """Log the first failure of each cause only: a million failures with one cause are one line."""
        if receipt.fingerprint in self._causes or len(self._causes) >= _MAX_CAUSES:
            return
        self._causes.add(receipt.fingerprint)
        next_step = _NEXT_STEPS.get(state, "no attempts left")
        traceback = receipt.traceback if receipt.retry_after is None else ""  # RetryLater is raised on purpose
        self._logger.warning(
            "mini-batch %d failed at attempt %d on %s (%s), %s: %s: %s%s",
            receipt.mini_batch,
            receipt.attempt,
            receipt.node,
            receipt.outcome,
            next_step,
            escape_control_chars(receipt.error_type),
            escape_control_chars(receipt.error),
            f"\n{escape_control_chars(traceback)}" if traceback else "",
            extra={"action": "attempt_failed", "mini_batch": receipt.mini_batch, "attempt": receipt.attempt},
        )

    def _log_progress(self, tally: Tally) -> None:
        """Log the counts every 30 s or 5 %."""
        snapshot = self._tracker.snapshot(tally)
        if not snapshot.is_paused and self._throttle.is_due(tally, self._clock()):  # a paused run makes no progress
            self._info("progress", "%s", progress_message(snapshot))

    def _info(self, action: str, message: str, *values: object) -> None:
        self._logger.info(message, *values, extra={"action": action})

    def _warning(self, action: str, message: str, *values: object) -> None:
        self._logger.warning(message, *values, extra={"action": action})


def log_warning(logger: Logger, text: str) -> None:
    """Log a problem that does not end the run."""
    logger.warning("%s", escape_control_chars(text), extra={"action": "warning"})


def escape_control_chars(text: str) -> str:
    r"""Return *text* with control characters escaped, because a terminal would execute them. Newlines and tabs stay.

    >>> escape_control_chars("\x1b[2Jgone?\n")
    '\\x1b[2Jgone?\n'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)
