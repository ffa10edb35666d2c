"""Who is told what happens while a run is driven."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from prefect_parallel_run.dispatch.script_logs import ScriptLine
from prefect_parallel_run.models import Breach, Receipt, Tally
from prefect_parallel_run.node.child_startup import StartFailure
from prefect_parallel_run.node.settings import NodeFacts


class Observer(Protocol):
    """Who is told what happens; called in the flow process, between two events."""

    def node_joined(self, facts: NodeFacts) -> None:
        """A node opened."""

    def node_left(self, node: str) -> None:
        """A node was lost; what it was doing goes to others."""

    def node_released(self, node: str) -> None:
        """A node had nothing to do, and was given back."""

    def slot_failed(self, node: str, failure: StartFailure) -> None:
        """A process could not be started, for good."""

    def committed(self, receipts: Sequence[Receipt]) -> None:
        """Tries have ended and are in the ledger, failed ones among them; called once per commit."""

    def tried(self, receipt: Receipt, state: str) -> None:
        """A try failed; *state* is where its mini-batch stands now."""

    def isolated(self, receipt: Receipt) -> None:
        """Some items of a mini-batch were tried apart from the others, and that is in the ledger."""

    def progressed(self, tally: Tally) -> None:
        """Counts changed, or time passed."""

    def script_said(self, line: ScriptLine) -> None:
        """The entry script has logged something at ``logging_level`` or above."""

    def script_left_out(self, lines: int) -> None:
        """The run is over; so many lines that the script has logged were not told."""

    def held(self, breach: Breach | None) -> None:
        """New mini-batches are held back because of *breach*, or (None) handed out again."""

    def warned(self, text: str) -> None:
        """Something that is no failure should be known."""
