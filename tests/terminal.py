"""A pseudo-terminal, and what a person would see on it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading

import pyte


class Terminal:
    """A pseudo-terminal that is read all the time; *stream* is its other side."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self._screen, self._changed = pyte.HistoryScreen(columns, rows, history=1000), threading.Condition()
        self._feed = pyte.ByteStream(self._screen)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # the last one who had it open has closed it
                return
            with self._changed:
                self._feed.feed(data)
                self._changed.notify_all()

    def start(self, command, **options) -> subprocess.Popen:
        """Start a program that has this as its terminal, and its stdout and stderr there."""
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.stream, stderr=self.stream, **options)

    def lines(self) -> list[str]:
        """What is on the screen, empty lines left out."""
        return [line.rstrip() for line in self._screen.display if line.strip()]

    def wait_for(self, fact, seconds: float = 30.0) -> list[str]:
        """Return the lines as soon as *fact* is true of them."""
        with self._changed:
            assert self._changed.wait_for(lambda: fact(self.lines()), seconds), "\n".join(self.lines())
            return self.lines()

    def close(self) -> list[str]:
        """Return what is there at the end."""
        self.stream.close()
        self._thread.join(30)
        os.close(self._master)
        return self.lines()
