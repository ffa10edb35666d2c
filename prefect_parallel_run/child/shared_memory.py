"""Memory that a child shares with its slot: which mini-batch is running, since when, and the slot's command.

It outlives a killed child, costs no system call to write, and stays correct when the child is stuck in C code.
"""

import mmap
from typing import Tuple

SIZE = 64  #: bytes
IDLE = -1  #: nothing is running
GO, GIVE_BACK, STOP = 0, 1, 2  #: commands: run the next mini-batch, return it without running it, exit before it


class SharedStatus:
    """The shared memory behind a file descriptor. The child writes its status; the slot reads it, and writes commands.

    The child writes that a mini-batch starts *before* it reads the command. So a slot that writes a command, and waits the
    moment that a processor takes to show a write to the others, reads the last mini-batch that may have started regardless.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, SIZE)
        self._index = memoryview(self._memory).cast("q")
        self._started = memoryview(self._memory).cast("d")

    def begin(self, index: int, now: float) -> None:
        """Write that mini-batch *index* starts at *now* (monotonic clock, s)."""
        self._started[1] = now  # before the index: a reader that sees the new index sees its time too
        self._index[0] = index

    def set_idle(self) -> None:
        """Write that nothing is running."""
        self._index[0] = IDLE

    def read(self) -> Tuple[int, float]:
        """Return the running mini-batch, or IDLE, and when it started."""
        while True:
            index, started = self._index[0], self._started[1]
            if index == self._index[0]:
                return index, started

    def set_command(self, command: int) -> None:
        """Write a command: GO, GIVE_BACK or STOP. It stays until the next one."""
        self._index[2] = command

    @property
    def command(self) -> int:
        """Return the current command."""
        return self._index[2]

    def close(self) -> None:
        """Release the memory."""
        self._index.release()
        self._started.release()
        self._memory.close()
