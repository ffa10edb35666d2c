"""A pseudo-terminal and the content of its screen."""

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
    """A pseudo-terminal whose output a thread reads; *stream* is the side for programs."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self._master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self._screen, self._changed = pyte.HistoryScreen(columns, rows, history=1000), threading.Condition()
        self.resize(columns, rows)
        self._feed = pyte.ByteStream(self._screen)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal."""
        with self._changed:
            self._screen.resize(rows, columns)
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # the last process closed the stream
                return
            with self._changed:
                self._feed.feed(data)
                self._changed.notify_all()

    def start(self, command, **options) -> subprocess.Popen:
        """Start a program with stdout and stderr on this terminal."""
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.stream, stderr=self.stream, **options)

    def lines(self) -> list[str]:
        """Return the non-empty lines of the screen."""
        return [line.rstrip() for line in self._screen.display if line.strip()]

    def wait_for(self, condition, seconds: float = 300.0) -> list[str]:
        """Return the lines as soon as *condition* is true for them."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.lines()), seconds), "\n".join(self.lines())
            return self.lines()

    def close(self) -> list[str]:
        """Close the terminal and return the last lines."""
        self.stream.close()
        self._thread.join(300)
        os.close(self._master)
        return self.lines()
