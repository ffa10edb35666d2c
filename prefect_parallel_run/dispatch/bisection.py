"""Bisection: isolates the failing items of a mini-batch that used up its attempts, by halving it. Pure.

Every item of such a mini-batch is in exactly one piece. A piece is open (to be run: it is queued here, or in a lease),
succeeded, or failing (one item that failed). A failed piece of several items is replaced by its halves.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
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


@dataclass(slots=True)
class _Bisection:
    attempt: int  # the last attempt at the whole mini-batch
    open: set[Piece]
    some_succeeded: bool


class Bisections:
    """All bisections of a run, and their pieces to run; a piece that lost its node *run_max_try* times counts as failed."""

    def __init__(self, run_max_try: int, resumed: Iterable[BisectionState] = ()) -> None:
        self._run_max_try = run_max_try
        self._unfinished: dict[int, _Bisection] = {}  # by mini-batch
        self._pieces: deque[tuple[int, Piece]] = deque()  # to run
        self._losses: Counter[tuple[int, Piece]] = Counter()  # times that a piece lost its node
        for state in resumed:
            outcomes = {Piece(start, stop): succeeded for start, stop, succeeded in state.pieces}
            self.start(state.mini_batch, state.attempt, state.items, outcomes)

    def __len__(self) -> int:
        """Return the number of pieces to run."""
        return len(self._pieces)

    def start(self, index: int, attempt: int, items: int, outcomes: Mapping[Piece, bool] | None = None) -> None:
        """Start to bisect a mini-batch after its last *attempt*; *outcomes*: whether each piece that already ran succeeded."""
        outcomes = {**(outcomes or {}), Piece(0, items): False}
        pieces = sorted(_without_outcome(Piece(0, items), outcomes))
        self._unfinished[index] = _Bisection(attempt, set(pieces), any(outcomes.values()))
        self._pieces.extend((index, piece) for piece in pieces)

    def pop(self) -> tuple[int, int, Piece]:
        """Return the next piece to run: mini-batch, its last attempt, piece."""
        index, piece = self._pieces.popleft()
        return index, self._unfinished[index].attempt, piece

    def requeue(self, index: int, piece: Piece) -> None:
        """Queue a piece again that did not run and did not fail."""
        self._pieces.append((index, piece))

    def record_loss(self, index: int, piece: Piece) -> bool:
        """Record that a piece lost its node; return True when it counts as failed."""
        self._losses[index, piece] += 1
        return self._losses[index, piece] >= self._run_max_try

    def record(self, index: int, piece: Piece, receipt: Receipt) -> BisectionResult:
        """Record the outcome of a piece, which decides its items as soon as their outcome is known."""
        bisection = self._unfinished[index]
        bisection.open.remove(piece)
        succeeded = receipt.outcome == Outcome.SUCCEEDED
        bisection.some_succeeded |= succeeded
        if not succeeded and piece.items > 1:
            bisection.open.update(piece.halves())
            self._pieces.extend((index, half) for half in piece.halves())
        failed = receipt.failed if succeeded else int(piece.items == 1)
        decided = piece.items if succeeded else failed
        if bisection.open:
            return BisectionResult(decided, failed, "isolating")
        del self._unfinished[index]
        return BisectionResult(decided, failed, "succeeded" if bisection.some_succeeded else "failed")


def _without_outcome(piece: Piece, outcomes: Mapping[Piece, bool]) -> Iterator[Piece]:
    """Yield the parts of *piece* that have no outcome yet."""
    if piece not in outcomes:
        yield piece
    elif not outcomes[piece] and piece.items > 1:
        for half in piece.halves():
            yield from _without_outcome(half, outcomes)
