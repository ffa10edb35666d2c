"""Between a child and its slot: messages as JSON lines on pipes of their own, and a little shared memory.

To the child: one settings object, ``"init"`` to call init() (a standby child waits for it), then
``[mini_batch, attempt, work]`` per mini-batch, then ``"shutdown"``. ``["sleep", until]`` delays the mini-batches after it
(monotonic clock, s).
From the child: ``["imported"]``, ``["init"]`` and ``["ready"]``, or ``["start_failed", stage, type, text, traceback]`` instead
of the first that it did not reach; one receipt (receipt.py) or ``["back", mini_batch]`` (recalled)
per mini-batch, and ``["bye", problem]`` after shutdown(). ``["leave", how, not_before]`` after a receipt announces that the
process exits at its script's request (failure.py).
An answer is written before the next mini-batch starts, so that a crash never loses a finished one. The *bell* is rung when
there is no work left, so that the slot need not wake for every answer.
"""

import json
import mmap
import os
from collections import deque
from typing import Any, Deque, Iterator, Tuple

_BLOCK = 1 << 18
SIZE = 64  #: bytes
IDLE = -1  #: nothing is running
GO, GIVE_BACK, STOP = 0, 1, 2  #: commands: run the next mini-batch, return it without running it, exit before it


class Channel:
    """The child's end of the pipes, which print() cannot disturb."""

    def __init__(self, inbox: int, outbox: int, bell: int) -> None:
        self._inbox, self._outbox, self._bell = inbox, outbox, bell
        for descriptor in (inbox, outbox, bell):
            os.set_inheritable(descriptor, False)  # a program that the script starts must not keep the pipes open
        self._encode = json.JSONEncoder(separators=(",", ":")).encode
        self._received: Deque[Any] = deque()

    def messages(self) -> Iterator[Any]:
        """Yield the slot's messages until it closes its end."""
        decode = json.JSONDecoder().decode
        received = self._received
        partial_line = b""
        while True:
            block = os.read(self._inbox, _BLOCK)
            if not block:
                return
            lines = (partial_line + block).split(b"\n") if b"\n" in block else [partial_line + block]
            partial_line = lines.pop()
            received.extend([decode(line.decode("ascii")) for line in lines])
            while received:
                yield received.popleft()
            self.ring()

    def next_message(self) -> Any:
        """Return the message that ``messages`` will yield next, or None if it has not arrived."""
        return self._received[0] if self._received else None

    def send(self, message: object) -> None:
        """Write one complete message before returning."""
        data = self._encode(message).encode("ascii") + b"\n"
        written = os.write(self._outbox, data)
        while written < len(data):  # larger than the pipe: the slot is reading it
            written += os.write(self._outbox, data[written:])

    def ring(self) -> None:
        """Wake the slot."""
        os.write(self._bell, b"!")


class SharedStatus:
    """The shared memory behind a file descriptor. The child writes its status; the slot reads it, and writes commands.

    It outlives a killed child, costs no system call to write, and stays correct when the child is stuck in C code.

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
