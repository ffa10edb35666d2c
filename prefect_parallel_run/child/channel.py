"""The child's end of the channel to its slot: JSON lines on separate descriptors, which print() cannot disturb.

To the child: one settings object, ``"init"`` to call init() (a standby child waits for it), then
``[mini_batch, attempt, work]`` per mini-batch, then ``"shutdown"``. ``["sleep", until]`` delays the mini-batches after it
(monotonic clock, s).
From the child: ``["imported"]``, ``["init"]`` and ``["ready"]``, or ``["start_failed", stage, type, text, traceback]`` instead
of the first that it did not reach; one receipt (a list in the order of models.Receipt) or ``["back", mini_batch]`` (recalled)
per mini-batch, and ``["bye", problem]`` after shutdown(). ``["leave", how, not_before]`` after a receipt announces that the
process exits at its script's request (retry.py).
An answer is written before the next mini-batch starts, so that a crash never loses a finished one. The *bell* is rung when
there is no work left, so that the slot need not wake for every answer.
"""

import json
import os
from typing import Any, Iterator

_BLOCK = 1 << 18


class Channel:
    """Receives messages from the slot and sends answers."""

    def __init__(self, inbox: int, outbox: int, bell: int) -> None:
        self._inbox, self._outbox, self._bell = inbox, outbox, bell
        for descriptor in (inbox, outbox, bell):
            os.set_inheritable(descriptor, False)  # a program that the script starts must not keep the pipes open
        self._encode = json.JSONEncoder(separators=(",", ":")).encode

    def messages(self) -> Iterator[Any]:
        """Yield the slot's messages until it closes its end."""
        decode = json.JSONDecoder().decode
        partial_line = b""
        while True:
            block = os.read(self._inbox, _BLOCK)
            if not block:
                return
            lines = (partial_line + block).split(b"\n") if b"\n" in block else [partial_line + block]
            partial_line = lines.pop()
            for line in lines:
                yield decode(line.decode("ascii"))
            self.ring()

    def send(self, message: object) -> None:
        """Write one complete message before returning."""
        data = self._encode(message).encode("ascii") + b"\n"
        written = os.write(self._outbox, data)
        while written < len(data):  # larger than the pipe: the slot is reading it
            written += os.write(self._outbox, data[written:])

    def ring(self) -> None:
        """Wake the slot."""
        os.write(self._bell, b"!")
