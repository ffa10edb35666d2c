"""A few bytes of memory that a child shares with its slot: which mini-batch is running, since when, and what it is to do.

They outlive a child that is killed, cost no system call to write, and stay truthful when the child is stuck in C code.
"""

import mmap
from typing import Tuple

SIZE = 64  #: bytes
IDLE = -1  #: nothing is running
GO, GIVE_BACK, STOP = 0, 1, 2  #: orders: run the next mini-batch, leave it undone and say so, end before it


class SharedStatus:
    """The shared bytes behind a file descriptor. The child writes what it does; the slot reads that, and writes orders.

    The child says that a mini-batch begins *before* it looks at the order. So a slot that gives an order, and lets the moment
    pass that a processor takes to show a write to the others, reads the last mini-batch that may have begun without it.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, SIZE)
        self._index = memoryview(self._memory).cast("q")
        self._begun = memoryview(self._memory).cast("d")

    def begin(self, index: int, now: float) -> None:
        """Say that mini-batch *index* begins at *now* (monotonic clock, s)."""
        self._begun[1] = now  # before the index: a reader that sees the new index sees its time too
        self._index[0] = index

    def rest(self) -> None:
        """Say that nothing is running."""
        self._index[0] = IDLE

    def read(self) -> Tuple[int, float]:
        """Return the mini-batch that is running, or IDLE, and when it began."""
        while True:
            index, begun = self._index[0], self._begun[1]
            if index == self._index[0]:
                return index, begun

    def order(self, order: int) -> None:
        """Give an order: GO, GIVE_BACK or STOP. It holds until the next one."""
        self._index[2] = order

    @property
    def ordered(self) -> int:
        """Return the order that holds."""
        return self._index[2]

    def close(self) -> None:
        """Give the memory back."""
        self._index.release()
        self._begun.release()
        self._memory.close()
