"""Two files in a run directory that control a run: one takes commands, the other returns answers.

Every user with write permission in the run directory may send commands; the flow process reads them and trusts nothing that it
reads. Both files are append-only, with one write per line, so that several users can send commands concurrently from any host
that sees the directory.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect_parallel_run.runs.commands import LONGEST

_BLOCK_SIZE = 64 * 1024  #: bytes per read


class LineTail:
    """Yields lines appended to a file since the last read; none while it is missing or not a regular file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._in_long_line = False  # whose first part has been yielded

    def take(self) -> Iterator[tuple[int, bytes]]:
        """Yield the offset of each new line, and the line; only the first part of an overlong line."""
        chunk = self._read()
        offset, self._offset = self._offset, self._offset + len(chunk)
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            if line.strip() and not self._in_long_line:
                yield offset, line[: LONGEST + 1]
            self._in_long_line = False
            offset += len(line) + 1
        if len(rest) <= LONGEST:  # it may be incomplete
            self._offset -= len(rest)
        elif not self._in_long_line:
            self._in_long_line = True
            yield offset, rest[: LONGEST + 1]

    def _read(self) -> bytes:
        try:
            status = self._path.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size == self._offset:
                return b""
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # missing, or not readable for this user
            return b""
        try:
            if status.st_size < self._offset:  # it was truncated
                self._offset, self._in_long_line = 0, False
            return os.pread(descriptor, _BLOCK_SIZE, self._offset)
        finally:
            os.close(descriptor)


def append(path: Path, line: bytes) -> None:
    """Append a line in one write; a line break comes first, in case another writer left an incomplete line."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        os.write(descriptor, b"\n" + line)
    finally:
        os.close(descriptor)


def answer(path: Path, order: str, *, applied: bool, words: str, at: float) -> None:
    """Append the answer to a command, for the process that waits for it.

    Args:
        path: The file of answers.
        order: Id of the command.
        applied: False when it was rejected.
        words: Message for the user.
        at: Unix time, s.
    """
    record = {"id": order, "applied": applied, "answer": words, "at": at}
    append(path, json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n")


def find_answer(lines: LineTail, order: str) -> dict[str, Any] | None:
    """Return the answer to a command if the new lines contain it, else None."""
    for _, line in lines.take():
        if order.encode() in line:
            record: dict[str, Any] = json.loads(line)
            if record["id"] == order:
                return record
    return None
