"""The mini-batches of a run whose guilty items are being looked for, and the pieces of them that are to be run. Pure.

A piece that is open is in exactly one of: here (to be run), and a lease that is out.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Literal, NamedTuple

from prefect_parallel_run.dispatch.bisection import Isolation, Piece
from prefect_parallel_run.models import BisectionState, Receipt


class BisectionResult(NamedTuple):
    """What a piece has brought to light."""

    decided: int  #: items that are now known to be good or guilty
    failed: int  #: of these, the guilty ones
    state: Literal["isolating", "succeeded", "failed"]  #: of the mini-batch


class Isolations:
    """All of a run. *run_max_try* is how often a piece may be lost with its node."""

    def __init__(self, run_max_try: int) -> None:
        self._run_max_try = run_max_try
        self._known: dict[int, tuple[int, Isolation]] = {}  # last try, and what is known, by mini-batch
        self._pieces: deque[tuple[int, Piece]] = deque()  # to be run
        self._losses: Counter[tuple[int, Piece]] = Counter()  # pieces that were lost with their node

    def __len__(self) -> int:
        """Return how many pieces are to be run."""
        return len(self._pieces)

    def begin(self, index: int, attempt: int, items: int) -> None:
        """Look for the guilty items of a mini-batch whose last try, *attempt*, has failed."""
        self._add(index, attempt, Isolation(items))

    def go_on(self, one: BisectionState) -> None:
        """Go on looking, from what an earlier drive of the run has found."""
        known = [(Piece(start, stop), succeeded) for start, stop, succeeded in one.pieces]
        self._add(one.mini_batch, one.attempt, Isolation(one.items, known))

    def _add(self, index: int, attempt: int, isolation: Isolation) -> None:
        self._known[index] = (attempt, isolation)
        self._pieces.extend((index, piece) for piece in isolation.open_pieces())

    def take(self) -> tuple[int, int, Piece]:
        """Return what is to be run next: mini-batch, its last try, piece."""
        index, piece = self._pieces.popleft()
        return index, self._known[index][0], piece

    def put_back(self, index: int, piece: Piece) -> None:
        """Have a piece run later that was not run, through no fault of its own."""
        self._pieces.append((index, piece))

    def is_given_up(self, index: int, piece: Piece) -> bool:
        """Take note of a piece that was lost with its node; True for one that takes every node along."""
        self._losses[index, piece] += 1
        return self._losses[index, piece] >= self._run_max_try

    def note(self, index: int, piece: Piece, receipt: Receipt) -> BisectionResult:
        """Take note of what came of a piece; items are decided as soon as they are known to be good or guilty."""
        isolation = self._known[index][1]
        succeeded = receipt.outcome == "succeeded"
        self._pieces.extend((index, fresh) for fresh in isolation.note(piece, succeeded=succeeded))
        failed = receipt.failed if succeeded else int(piece.items == 1)
        decided = piece.items if succeeded else failed
        if not isolation.is_over:
            return BisectionResult(decided, failed, "isolating")
        del self._known[index]
        return BisectionResult(decided, failed, "succeeded" if isolation.some_succeeded else "failed")
