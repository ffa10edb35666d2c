"""The protocol for listeners to the dispatcher's events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from prefect_parallel_run.dispatch.script_logs import ScriptLine
from prefect_parallel_run.models import Breach, Receipt, Tally
from prefect_parallel_run.node.child_startup import StartFailure
from prefect_parallel_run.node.settings import NodeFacts


class Observer(Protocol):
    """Receives the events of a run, in the flow process, between two events of the dispatcher."""

    def node_joined(self, facts: NodeFacts) -> None:
        """A node joined the run."""

    def node_left(self, node: str) -> None:
        """A node was lost; its mini-batches are rescheduled."""

    def node_released(self, node: str) -> None:
        """An idle node was released."""

    def slot_failed(self, node: str, failure: StartFailure) -> None:
        """A slot gave up on starting its process."""

    def committed(self, receipts: Sequence[Receipt]) -> None:
        """Attempts, including failed ones, were written to the ledger; called once per commit."""

    def tried(self, receipt: Receipt, state: str) -> None:
        """An attempt failed; *state* is the new state of its mini-batch."""

    def isolated(self, receipt: Receipt) -> None:
        """A piece of a mini-batch ran during bisection, and its outcome is in the ledger."""

    def progressed(self, tally: Tally) -> None:
        """Counts changed, or time passed."""

    def script_said(self, line: ScriptLine) -> None:
        """The entry script logged a message at ``logging_level`` or above."""

    def script_left_out(self, lines: int) -> None:
        """The run is over; *lines* lines that the script logged were not forwarded."""

    def held(self, breach: Breach | None) -> None:
        """New mini-batches are held back because of *breach*, or (None) are handed out again."""

    def warned(self, text: str) -> None:
        """A problem that does not end the run should be shown to the user."""
