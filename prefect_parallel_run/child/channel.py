"""The child's end of the conversation with its slot: JSON lines on descriptors of their own, so that no print breaks it.

To the child: one settings object, ``"init"`` when init() is to be called (which a child that is started ahead waits for),
then ``[mini_batch, attempt, work]`` per mini-batch, then ``"shutdown"``. ``["sleep", until]`` in front of mini-batches has
them wait (monotonic clock, s).
From it: ``["imported"]``, ``["init"]`` and ``["ready"]``, or ``["start_failed", stage, type, text, traceback]`` in place of
what it did not get to; one receipt (a list in the order of records.Receipt) or ``["back", mini_batch]`` (left undone, as
ordered) per mini-batch, and ``["bye", problem]`` after
shutdown(). ``["leave", how, not_before]`` behind a receipt says that the process ends as its script asks (retry.py).
An answer is written before the next mini-batch begins, so that a crash never takes a finished one with it. The *bell* is
rung when nothing is left to do: the slot need not wake for every answer.
"""

import json
import os
from typing import Any, Iterator

_BLOCK = 1 << 18


class Channel:
    """Messages in and out."""

    def __init__(self, inbox: int, outbox: int, bell: int) -> None:
        self._inbox, self._outbox, self._bell = inbox, outbox, bell
        for descriptor in (inbox, outbox, bell):
            os.set_inheritable(descriptor, False)  # a program that the script starts must not hold our pipes open
        self._encode = json.JSONEncoder(separators=(",", ":")).encode

    def messages(self) -> Iterator[Any]:
        """Yield what the slot sends, until it closes its end."""
        decode = json.JSONDecoder().decode
        rest = b""
        while True:
            block = os.read(self._inbox, _BLOCK)
            if not block:
                return
            lines = (rest + block).split(b"\n") if b"\n" in block else [rest + block]
            rest = lines.pop()
            for line in lines:
                yield decode(line.decode("ascii"))
            self.ring()

    def send(self, message: object) -> None:
        """Write one message, whole, before returning."""
        data = self._encode(message).encode("ascii") + b"\n"
        written = os.write(self._outbox, data)
        while written < len(data):  # larger than the pipe: the slot is emptying it
            written += os.write(self._outbox, data[written:])

    def ring(self) -> None:
        """Wake the slot."""
        os.write(self._bell, b"!")
