"""The events of a run, and the listeners that receive them. A listener is an object with one method, ``handle``.

The step, the runner, the dispatcher and the control commands emit events, in the flow process. Log, log files, terminal,
Prefect events and artifacts listen; a listener ignores the events that it does not know. ``monitoring/listeners.py`` lists
the listeners, except the step's own recorder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from prefect_parallel_run.models import Breach, Receipt, Tally
from prefect_parallel_run.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from prefect_parallel_run.node.child_startup import StartFailure
    from prefect_parallel_run.node.settings import NodeFacts
    from prefect_parallel_run.result import ParallelRunResult


class RunEvent:
    """Base class of the events."""

    __slots__ = ()


Emit = Callable[[RunEvent], None]


class Listener(Protocol):
    """Receives the events of a run."""

    def handle(self, event: RunEvent) -> None:
        """Act on *event*, or ignore it."""


def emit_to(listeners: Sequence[Listener]) -> Emit:
    """Return a function that passes an event to every listener, in the given order."""

    def emit(event: RunEvent) -> None:
        for listener in listeners:
            listener.handle(event)

    return emit


# The run
@dataclass(frozen=True, slots=True)
class RunStarted(RunEvent):
    """The first leases are about to be sent; *tally* is not empty when the run is resumed from its ledger."""

    directory: RunDirectory
    tally: Tally
    dashboard: str = ""  #: URL of the Dask dashboard, or ""


@dataclass(frozen=True, slots=True)
class Progressed(RunEvent):
    """Counts changed, or time passed."""

    tally: Tally


@dataclass(frozen=True, slots=True)
class SchedulingPaused(RunEvent):
    """New mini-batches are held back until the pending attempts are done: their failure would exceed a limit."""

    breach: Breach


@dataclass(frozen=True, slots=True)
class SchedulingResumed(RunEvent):
    """New mini-batches are handed out again."""


@dataclass(frozen=True, slots=True)
class ExecutionEnded(RunEvent):
    """The last mini-batch has its final outcome, or the execution failed; the counts are final."""

    tally: Tally


@dataclass(frozen=True, slots=True)
class RunFinished(RunEvent):
    """The run is over: its result is published, or will not be published."""

    status: str  #: succeeded, failed (it would fail again), interrupted (by another error) or cancelled
    reason: str = ""  #: why it did not succeed


@dataclass(frozen=True, slots=True)
class Noted(RunEvent):
    """Something that is not a problem may interest the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Warned(RunEvent):
    """A problem that does not end the run should be shown to the user."""

    text: str


# Nodes
@dataclass(frozen=True, slots=True)
class NodeJoined(RunEvent):
    """A node joined the run."""

    facts: NodeFacts


@dataclass(frozen=True, slots=True)
class NodeLost(RunEvent):
    """A node was lost; its mini-batches are rescheduled."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeReleased(RunEvent):
    """An idle node was released."""

    node: str


@dataclass(frozen=True, slots=True)
class SlotFailed(RunEvent):
    """A slot is unusable: its process cannot be started, or does not stay alive."""

    node: str
    failure: StartFailure


# Attempts
@dataclass(frozen=True, slots=True)
class ReceiptsCommitted(RunEvent):
    """Attempts, including failed ones, were written to the ledger in one transaction."""

    receipts: Sequence[Receipt]


@dataclass(frozen=True, slots=True)
class AttemptFailed(RunEvent):
    """An attempt failed."""

    receipt: Receipt
    state: str  #: new state of its mini-batch


@dataclass(frozen=True, slots=True)
class PieceFinished(RunEvent):
    """A piece of a mini-batch ran during bisection, and its outcome is in the ledger."""

    receipt: Receipt


# The entry script's log
@dataclass(frozen=True, slots=True)
class ScriptLogged(RunEvent):
    """The entry script logged a message at ``logging_level`` or above; it may span several lines."""

    level: int  #: numeric level of the logging module
    process: str
    text: str


@dataclass(frozen=True, slots=True)
class ScriptLinesDropped(RunEvent):
    """The execution is over, and this number of lines that the script logged were not forwarded."""

    lines: int


# Control commands
@dataclass(frozen=True, slots=True)
class CommandHandled(RunEvent):
    """A user's command was applied or rejected."""

    command: str
    sender: str
    answer: str


@dataclass(frozen=True, slots=True)
class RunPaused(RunEvent):
    """A command paused the run."""


@dataclass(frozen=True, slots=True)
class RunContinued(RunEvent):
    """A command continued the paused run."""


# The step as a Prefect task
@dataclass(frozen=True, slots=True)
class StepReturned(RunEvent):
    """The step has a result, new or reused."""

    result: ParallelRunResult


@dataclass(frozen=True, slots=True)
class StepRaised(RunEvent):
    """The step ended with an error, which Prefect logs; it is not an Exception if the step was cancelled."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class ReportWritten(RunEvent):
    """The report of the run exists."""

    location: str  #: path or URL


@dataclass(frozen=True, slots=True)
class StepEnded(RunEvent):
    """The last event of a step."""
