"""Two files of a run directory through which a run is controlled: orders go in by one, answers come out by the other.

Everybody who may write in the run directory may order; whoever drives the run reads, and trusts nothing that it reads. Both
files only grow, by one write per line, so that several people can order at once, from any host that sees the folder.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect_parallel_run.runs.commands import LONGEST

_AT_ONCE = 64 * 1024  #: bytes read at one look


class LineTail:
    """The lines that have come to a file since the last look. It may be missing; what is no plain file has none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._is_amid = False  # of a line too long, whose beginning has been told

    def take(self) -> Iterator[tuple[int, bytes]]:
        """Yield where each new line begins, and the line; of one too long, its first part."""
        chunk = self._read()
        offset, self._offset = self._offset, self._offset + len(chunk)
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            if line.strip() and not self._is_amid:
                yield offset, line[: LONGEST + 1]
            self._is_amid = False
            offset += len(line) + 1
        if len(rest) <= LONGEST:  # it may not be whole yet
            self._offset -= len(rest)
        elif not self._is_amid:
            self._is_amid = True
            yield offset, rest[: LONGEST + 1]

    def _read(self) -> bytes:
        try:
            status = self._path.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size == self._offset:
                return b""
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # it is not there, or not ours to read
            return b""
        try:
            if status.st_size < self._offset:  # somebody has begun it anew
                self._offset, self._is_amid = 0, False
            return os.pread(descriptor, _AT_ONCE, self._offset)
        finally:
            os.close(descriptor)


def append(path: Path, line: bytes) -> None:
    """Add a line in one write; in front of it one that somebody has not ended is ended."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        os.write(descriptor, b"\n" + line)
    finally:
        os.close(descriptor)


def answer(path: Path, order: str, *, applied: bool, words: str, at: float) -> None:
    """Tell whoever waits for it what became of an order."""
    facts = {"id": order, "applied": applied, "answer": words, "at": at}
    append(path, json.dumps(facts, separators=(",", ":")).encode("ascii") + b"\n")


def answer_in(lines: LineTail, order: str) -> dict[str, Any] | None:
    """Return the answer to an order when it is among the new lines, or None."""
    for _, line in lines.take():
        if order.encode() in line:
            found: dict[str, Any] = json.loads(line)
            if found["id"] == order:
                return found
    return None
