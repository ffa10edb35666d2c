"""The mini-batches under bisection in a run, and their pieces to run. Pure.

An open piece is either queued here or in a lease.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Literal, NamedTuple

from prefect_parallel_run.dispatch.bisection import Bisection, Piece
from prefect_parallel_run.models import BisectionState, Outcome, Receipt


class BisectionResult(NamedTuple):
    """What the outcome of a piece decides."""

    decided: int  #: items whose outcome is now known
    failed: int  #: of these, failed items
    state: Literal["isolating", "succeeded", "failed"]  #: state of the mini-batch


class Bisections:
    """All bisections of a run. A piece that loses its node *run_max_try* times counts as failed."""

    def __init__(self, run_max_try: int) -> None:
        self._run_max_try = run_max_try
        self._known: dict[int, tuple[int, Bisection]] = {}  # last attempt and bisection, by mini-batch
        self._pieces: deque[tuple[int, Piece]] = deque()  # to run
        self._losses: Counter[tuple[int, Piece]] = Counter()  # times that a piece lost its node

    def __len__(self) -> int:
        """Return the number of pieces to run."""
        return len(self._pieces)

    def start(self, index: int, attempt: int, items: int) -> None:
        """Start to bisect a mini-batch whose last attempt, *attempt*, failed."""
        self._add(index, attempt, Bisection(items))

    def resume(self, state: BisectionState) -> None:
        """Resume a bisection from the outcomes that the ledger holds."""
        known = [(Piece(start, stop), succeeded) for start, stop, succeeded in state.pieces]
        self._add(state.mini_batch, state.attempt, Bisection(state.items, known))

    def _add(self, index: int, attempt: int, bisection: Bisection) -> None:
        self._known[index] = (attempt, bisection)
        self._pieces.extend((index, piece) for piece in bisection.open_pieces())

    def pop(self) -> tuple[int, int, Piece]:
        """Return the next piece to run: mini-batch, its last attempt, piece."""
        index, piece = self._pieces.popleft()
        return index, self._known[index][0], piece

    def requeue(self, index: int, piece: Piece) -> None:
        """Queue a piece again that did not run and did not fail."""
        self._pieces.append((index, piece))

    def record_loss(self, index: int, piece: Piece) -> bool:
        """Record that a piece lost its node; return True when it counts as failed."""
        self._losses[index, piece] += 1
        return self._losses[index, piece] >= self._run_max_try

    def record(self, index: int, piece: Piece, receipt: Receipt) -> BisectionResult:
        """Record the outcome of a piece, which decides its items as soon as their outcome is known."""
        bisection = self._known[index][1]
        succeeded = receipt.outcome == Outcome.SUCCEEDED
        self._pieces.extend((index, half) for half in bisection.record(piece, succeeded=succeeded))
        failed = receipt.failed if succeeded else int(piece.items == 1)
        decided = piece.items if succeeded else failed
        if not bisection.is_over:
            return BisectionResult(decided, failed, "isolating")
        del self._known[index]
        return BisectionResult(decided, failed, "succeeded" if bisection.some_succeeded else "failed")
