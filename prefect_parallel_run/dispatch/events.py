"""Events that the dispatcher reports to RunState (past tense), and instructions that it gets back (imperative)."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_parallel_run.models import Breach, FailureLimits, Lease, Receipt
from prefect_parallel_run.node.child_startup import StartFailure


@dataclass(frozen=True, slots=True)
class NodeOpened:
    """A node accepts leases."""

    node: str
    slots: int


@dataclass(frozen=True, slots=True)
class SlotReady:
    """A process of a node has started and can run its first mini-batch."""

    node: str
    as_of: int = 0  #: number of the node's last resize at that time


@dataclass(frozen=True, slots=True)
class SlotUnusable:
    """A slot of a node has no process and cannot start one."""

    node: str
    slots: int  #: remaining slots of the node
    failure: StartFailure
    as_of: int = 0  #: number of the node's last resize at that time


@dataclass(frozen=True, slots=True)
class NodeLeft:
    """A node was lost or released; its leases are lost."""

    node: str


@dataclass(frozen=True, slots=True)
class NodesOpening:
    """The number of nodes that are being opened changed; each of them will join or fail."""

    nodes: int


@dataclass(frozen=True, slots=True)
class LeaseFinished:
    """A lease ended. Its mini-batches without a receipt did not run and are not charged an attempt."""

    lease: int
    receipts: list[Receipt]
    slots: int  #: remaining slots of the node
    as_of: int = 0  #: number of the node's last resize at that time


@dataclass(frozen=True, slots=True)
class LeaseShortened:
    """A recalled lease returned its mini-batches from *stop* on; none of them has started or will.

    None: the lease has not reached its node yet.
    """

    lease: int
    stop: int | None


@dataclass(frozen=True, slots=True)
class PlanGrew:
    """More mini-batches were planned."""

    items: list[int]  #: number of items of each new mini-batch


@dataclass(frozen=True, slots=True)
class PlanEnded:
    """Planning is complete."""


@dataclass(frozen=True, slots=True)
class Paused:
    """A user paused the run: no mini-batch starts; those that run continue."""


@dataclass(frozen=True, slots=True)
class Continued:
    """A user continued a paused run."""


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """A user changed the failure limits, or the pace."""

    limits: FailureLimits
    mini_batches_per_minute: float | None = None  #: None or -1: no limit


@dataclass(frozen=True, slots=True)
class ProcessesChanged:
    """A user changed the number of processes on every node, including nodes that join later."""

    count: int


@dataclass(frozen=True, slots=True)
class NodeResized:
    """A node was resized; slots that were removed finish what they run."""

    node: str
    slots: int  #: slots after the resize
    ready: int  #: of these, slots whose process has started
    as_of: int  #: number of this resize; earlier reports of the node are out of date
    leaving: tuple[int, ...] = ()  #: leases that run on removed slots


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: a retry may be due, or a timeout may have expired."""


ControlCommand = Paused | Continued | LimitsChanged | ProcessesChanged
NodeEvent = NodeOpened | SlotReady | SlotUnusable | NodeLeft | NodesOpening | NodeResized
Event = NodeEvent | LeaseFinished | LeaseShortened | PlanGrew | PlanEnded | ControlCommand | Tick


@dataclass(frozen=True, slots=True)
class SubmitLease:
    """Send a lease to its node."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Recall:
    """Recall what a lease has not started, or stop the whole lease: the outcome of what it runs is already decided."""

    lease: int
    at_once: bool


@dataclass(frozen=True, slots=True)
class Resize:
    """Make a node add or retire slots."""

    node: str
    slots: int
    number: int  #: sequence number; a node ignores a resize that is older than its last one


@dataclass(frozen=True, slots=True)
class Commit:
    """Write receipts to the ledger, each with the new state of its mini-batch."""

    decided: list[tuple[Receipt, str]]  #: state: succeeded, failed, waiting, isolating


@dataclass(frozen=True, slots=True)
class CommitPiece:
    """Write the outcome of a piece to the ledger, with the new state of its mini-batch."""

    receipt: Receipt
    piece: tuple[int, int]
    failed: int  #: items that have now failed
    state: str  #: isolating, succeeded, failed


@dataclass(frozen=True, slots=True)
class PauseScheduling:
    """Report that new mini-batches are held back: a limit would be exceeded if all pending retries failed."""

    breach: Breach


@dataclass(frozen=True, slots=True)
class ResumeScheduling:
    """Report that new mini-batches are handed out again."""


@dataclass(frozen=True, slots=True)
class Abort:
    """Stop the run: final outcomes exceed a limit."""

    breach: Breach


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop the run: no slot is left."""

    slots_failed: bool  #: True: nodes exist but no process starts on them; False: there is no node


@dataclass(frozen=True, slots=True)
class Finish:
    """End the run: every mini-batch has its final outcome."""


Instruction = (
    SubmitLease | Recall | Resize | Commit | CommitPiece | PauseScheduling | ResumeScheduling | Abort | GiveUp | Finish
)
