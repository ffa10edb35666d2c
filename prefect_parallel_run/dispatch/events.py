"""What the dispatcher tells the run's state (events, in the past) and what it is told to do (instructions, as orders)."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_parallel_run.models import Breach, Lease, Receipt
from prefect_parallel_run.runs.limits import FailureLimits


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node is ready for leases."""

    node: str
    slots: int


@dataclass(frozen=True, slots=True)
class SlotReady:
    """A process of a node has started and can begin its first mini-batch."""

    node: str
    as_of: int = 0  #: number of the node's last resizing then


@dataclass(frozen=True, slots=True)
class NodeLeft:
    """A node is gone, with the leases it had."""

    node: str


@dataclass(frozen=True, slots=True)
class NodesOpening:
    """So many nodes are being opened now: each will join, or its failure will be told."""

    nodes: int


@dataclass(frozen=True, slots=True)
class LeaseFinished:
    """A lease came home. Mini-batches without a receipt have not been run, and none of them is to blame."""

    lease: int
    receipts: list[Receipt]
    slots: int  #: slots that the node has left
    as_of: int = 0  #: number of the node's last resizing then


@dataclass(frozen=True, slots=True)
class LeaseShortened:
    """A lease that was called back says what it keeps; from *stop* on nothing of it has been begun, nor will be.

    None: its node does not know it yet.
    """

    lease: int
    stop: int | None


@dataclass(frozen=True, slots=True)
class PlanGrew:
    """Further mini-batches have been planned."""

    items: list[int]  #: of each


@dataclass(frozen=True, slots=True)
class PlanEnded:
    """Every mini-batch has been planned."""


@dataclass(frozen=True, slots=True)
class Paused:
    """A person wants no mini-batch to be begun for now; those that run go on."""


@dataclass(frozen=True, slots=True)
class Continued:
    """A person wants mini-batches to be begun again."""


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """A person forgives more, or less, from now on."""

    limits: FailureLimits


@dataclass(frozen=True, slots=True)
class ProcessesChanged:
    """A person wants another number of processes on every node, on those that come later too."""

    count: int


@dataclass(frozen=True, slots=True)
class NodeResized:
    """A node has the number of slots that it was told; those that went finish what they run."""

    node: str
    slots: int  #: that it had then
    ready: int  #: of these, slots whose process had started
    as_of: int  #: number of the resizing; what the node said before is out of date
    leaving: tuple[int, ...] = ()  #: leases that are run by slots that went


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: a try may be due again, or patience be over."""


Ordered = Paused | Continued | LimitsChanged | ProcessesChanged
OfNodes = NodeJoined | SlotReady | NodeLeft | NodesOpening | NodeResized
Event = OfNodes | LeaseFinished | LeaseShortened | PlanGrew | PlanEnded | Ordered | Tick


@dataclass(frozen=True, slots=True)
class SubmitLease:
    """Send this lease to its node."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Recall:
    """Ask a lease to give back what it has not begun, or stop it at once: what it still runs does not count."""

    lease: int
    at_once: bool


@dataclass(frozen=True, slots=True)
class Resize:
    """Have a node start more slots, or retire some."""

    node: str
    slots: int
    number: int  #: of the resizing; a node that has heard of a later one leaves it


@dataclass(frozen=True, slots=True)
class Commit:
    """Write these receipts to the ledger, each with the state its mini-batch is in then."""

    decided: list[tuple[Receipt, str]]  #: state: succeeded, failed, waiting, isolating


@dataclass(frozen=True, slots=True)
class CommitPiece:
    """Write what came of some items of a mini-batch to the ledger, with the state the mini-batch is in then."""

    receipt: Receipt
    piece: tuple[int, int]
    failed: int  #: items that are now known to have failed
    state: str  #: isolating, succeeded, failed


@dataclass(frozen=True, slots=True)
class Hold:
    """Say that no new mini-batch is handed out for now: the limit would be exceeded if the pending tries failed."""

    breach: Breach


@dataclass(frozen=True, slots=True)
class Release:
    """Say that new mini-batches are handed out again."""


@dataclass(frozen=True, slots=True)
class Abort:
    """Stop everything: a limit is exceeded by what is final."""

    breach: Breach


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop everything: there is nowhere left to run."""

    slots_failed: bool  #: nodes are there, but no process on them can start; else no node is there


@dataclass(frozen=True, slots=True)
class Finish:
    """Every mini-batch has its final outcome."""


Instruction = SubmitLease | Recall | Resize | Commit | CommitPiece | Hold | Release | Abort | GiveUp | Finish
