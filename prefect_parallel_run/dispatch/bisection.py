"""Finding the guilty items of a mini-batch whose tries are used up: it is halved until they stand alone. Pure.

Every item is in exactly one piece, and every piece in exactly one of: open (to be run), succeeded, guilty (one item that
failed). A piece that failed is replaced by its halves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Piece(NamedTuple):
    """Some neighbouring items of a mini-batch, as a half-open range of their places in it."""

    start: int
    stop: int

    @property
    def items(self) -> int:
        """Return how many they are."""
        return self.stop - self.start

    def halves(self) -> tuple[Piece, Piece]:
        """Return both halves; there are at least two items."""
        middle = (self.start + self.stop) // 2
        return Piece(self.start, middle), Piece(middle, self.stop)


class Isolation:
    """What is known about the items of one mini-batch.

    Args:
        items: Of the mini-batch, which as a whole has failed.
        known: Pieces that have been run before, each with whether it succeeded.
    """

    def __init__(self, items: int, known: Iterable[tuple[Piece, bool]] = ()) -> None:
        self._outcomes = {Piece(0, items): False, **dict(known)}
        self.some_succeeded = any(self._outcomes.values())
        self._open = set(self._leaves(Piece(0, items)))

    def open_pieces(self) -> list[Piece]:
        """Return what is still to be run, in order."""
        return sorted(self._open)

    @property
    def is_over(self) -> bool:
        """True when every item is known to be good or guilty."""
        return not self._open

    def note(self, piece: Piece, *, succeeded: bool) -> tuple[Piece, ...]:
        """Take note of what came of an open piece and return what is to be run instead of it.

        >>> isolation = Isolation(4)
        >>> isolation.open_pieces()
        [Piece(start=0, stop=2), Piece(start=2, stop=4)]
        >>> isolation.note(Piece(0, 2), succeeded=True)
        ()
        >>> isolation.note(Piece(2, 4), succeeded=False)
        (Piece(start=2, stop=3), Piece(start=3, stop=4))
        """
        self._open.remove(piece)
        self._outcomes[piece] = succeeded
        self.some_succeeded |= succeeded
        fresh = () if succeeded or piece.items == 1 else piece.halves()
        self._open.update(fresh)
        return fresh

    def _leaves(self, piece: Piece) -> Iterator[Piece]:
        """Yield the pieces below *piece* that nothing is known of."""
        if piece not in self._outcomes:
            yield piece
        elif not self._outcomes[piece] and piece.items > 1:
            for half in piece.halves():
                yield from self._leaves(half)
