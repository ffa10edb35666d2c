"""Bisection: isolates the failing items of a mini-batch that used up its attempts, by halving it. Pure.

Every item is in exactly one piece. A piece is open (to be run), succeeded, or failing (one item that failed). A failed
piece of several items is replaced by its halves.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
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


class Bisection:
    """Tracks which items of one mini-batch succeeded or failed.

    Args:
        items: Number of items of the mini-batch, which failed as a whole.
        known: Pieces that already ran, each with whether it succeeded.
    """

    def __init__(self, items: int, known: Iterable[tuple[Piece, bool]] = ()) -> None:
        self._outcomes = {Piece(0, items): False, **dict(known)}
        self.some_succeeded = any(self._outcomes.values())
        self._open = set(self._leaves(Piece(0, items)))

    def open_pieces(self) -> list[Piece]:
        """Return the pieces to run, in order."""
        return sorted(self._open)

    @property
    def is_over(self) -> bool:
        """True when every item has succeeded or failed."""
        return not self._open

    def record(self, piece: Piece, *, succeeded: bool) -> tuple[Piece, ...]:
        """Record the outcome of an open piece and return the pieces that replace it.

        >>> bisection = Bisection(4)
        >>> bisection.open_pieces()
        [Piece(start=0, stop=2), Piece(start=2, stop=4)]
        >>> bisection.record(Piece(0, 2), succeeded=True)
        ()
        >>> bisection.record(Piece(2, 4), succeeded=False)
        (Piece(start=2, stop=3), Piece(start=3, stop=4))
        """
        self._open.remove(piece)
        self._outcomes[piece] = succeeded
        self.some_succeeded |= succeeded
        halves = () if succeeded or piece.items == 1 else piece.halves()
        self._open.update(halves)
        return halves

    def _leaves(self, piece: Piece) -> Iterator[Piece]:
        """Yield the parts of *piece* that have no outcome yet."""
        if piece not in self._outcomes:
            yield piece
        elif not self._outcomes[piece] and piece.items > 1:
            for half in piece.halves():
                yield from self._leaves(half)


class BisectionResult(NamedTuple):
    """What the outcome of a piece decides."""

    decided: int  #: items whose outcome is now known
    failed: int  #: of these, failed items
    state: Literal["isolating", "succeeded", "failed"]  #: state of the mini-batch


class Bisections:
    """All bisections of a run, and their pieces to run. An open piece is either queued here or in a lease.

    Args:
        run_max_try: Number of times that a piece loses its node before it counts as failed.
        resumed: Bisections to resume, with the outcomes that the ledger holds.
    """

    def __init__(self, run_max_try: int, resumed: Iterable[BisectionState] = ()) -> None:
        self._run_max_try = run_max_try
        self._known: dict[int, tuple[int, Bisection]] = {}  # last attempt and bisection, by mini-batch
        self._pieces: deque[tuple[int, Piece]] = deque()  # to run
        self._losses: Counter[tuple[int, Piece]] = Counter()  # times that a piece lost its node
        for state in resumed:
            known = [(Piece(start, stop), succeeded) for start, stop, succeeded in state.pieces]
            self._add(state.mini_batch, state.attempt, Bisection(state.items, known))

    def __len__(self) -> int:
        """Return the number of pieces to run."""
        return len(self._pieces)

    def start(self, index: int, attempt: int, items: int) -> None:
        """Start to bisect a mini-batch whose last attempt, *attempt*, failed."""
        self._add(index, attempt, Bisection(items))

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
