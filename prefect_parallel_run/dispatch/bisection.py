"""Bisection: isolates the failing items of a mini-batch that used up its attempts, by halving it. Pure.

Every item of such a mini-batch is in exactly one piece. A piece is open (to be run, or in a lease), succeeded, or failing (one
item that failed). A failed piece of several items is replaced by its halves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from prefect_parallel_run.models import BisectionState, Outcome, Receipt


class Piece(NamedTuple):
    """Consecutive items of a mini-batch, as a half-open range of indices."""

    start: int
    stop: int

    @property
    def items(self) -> int:
        """Return the number of items."""
        return self.stop - self.start

    def halves(self) -> tuple[Piece, Piece]:
        """Return both halves of a piece of at least two items."""
        middle = (self.start + self.stop) // 2
        return Piece(self.start, middle), Piece(middle, self.stop)


class BisectionResult(NamedTuple):
    """The decision that follows from the outcome of a piece."""

    decided: int  #: items whose outcome is now known
    failed: int  #: of these, failed items
    state: Literal["isolating", "succeeded", "failed"]  #: state of the mini-batch
    halves: tuple[Piece, ...]  #: further pieces to run


@dataclass(slots=True)
class _Bisection:
    open: set[Piece]
    some_succeeded: bool


class Bisections:
    """All bisections of a run. The attempts at a piece that say nothing about its items are limited; the last one fails it."""

    def __init__(self, run_max_try: int) -> None:
        self._run_max_try = run_max_try
        self._unfinished: dict[int, _Bisection] = {}  # by mini-batch
        self._undecided: Counter[tuple[int, Piece]] = Counter()  # attempts at a piece that said nothing about its items

    def start(self, index: int, items: int, outcomes: Mapping[Piece, bool] | None = None) -> list[Piece]:
        """Start to bisect a mini-batch and return the pieces to run; *outcomes*: whether pieces that have run succeeded."""
        outcomes = {**(outcomes or {}), Piece(0, items): False}
        pieces = sorted(_without_outcome(Piece(0, items), outcomes))
        self._unfinished[index] = _Bisection(set(pieces), any(outcomes.values()))
        return pieces

    def resume(self, state: BisectionState) -> list[Piece]:
        """Continue a bisection of an earlier execution and return the pieces to run."""
        return self.start(state.mini_batch, state.items, {Piece(start, stop): good for start, stop, good in state.pieces})

    def may_repeat(self, index: int, piece: Piece) -> bool:
        """Record an attempt that says nothing about its items; return False when it counts as failed."""
        self._undecided[index, piece] += 1
        return self._undecided[index, piece] < self._run_max_try

    def record(self, index: int, piece: Piece, receipt: Receipt) -> BisectionResult:
        """Record the outcome of a piece, which decides its items as soon as their outcome is known."""
        bisection = self._unfinished[index]
        bisection.open.remove(piece)
        succeeded = receipt.outcome == Outcome.SUCCEEDED
        bisection.some_succeeded |= succeeded
        halves = () if succeeded or piece.items == 1 else piece.halves()
        bisection.open.update(halves)
        failed = receipt.failed if succeeded else int(piece.items == 1)
        decided = piece.items if succeeded else failed
        if bisection.open:
            return BisectionResult(decided, failed, "isolating", halves)
        del self._unfinished[index]
        return BisectionResult(decided, failed, "succeeded" if bisection.some_succeeded else "failed", halves)


def _without_outcome(piece: Piece, outcomes: Mapping[Piece, bool]) -> Iterator[Piece]:
    """Yield the parts of *piece* that have no outcome yet."""
    if piece not in outcomes:
        yield piece
    elif not outcomes[piece] and piece.items > 1:
        for half in piece.halves():
            yield from _without_outcome(half, outcomes)
