"""Bisection: isolates the failing items of a mini-batch that used up its attempts, by halving it. Pure.

Every item is in exactly one piece. A piece is open (to be run), succeeded, or failing (one item that failed). A failed
piece of several items is replaced by its halves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


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
