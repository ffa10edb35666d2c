"""Cuts a growing log file in place: keeps its beginning and its end, with a line between them that says how much was cut.

Writers must have opened the file for appending, so that their next write lands at the new end. Bytes written during the cut may
be lost, or end up above the line.
"""

from __future__ import annotations

import os
from typing import NamedTuple

MOST = 16 << 20  #: bytes; a longer file is cut
HEAD = 1 << 20  #: bytes kept of its beginning
TAIL = 7 << 20  #: bytes kept of its end


class ShortenedLog(NamedTuple):
    """The result of a cut."""

    seen: int  #: size before the cut, bytes
    end: int  #: size after the cut, bytes: later lines are appended here
    left_out: int  #: bytes cut from the file so far, by all cuts


def shorten(path: str, left_out: int, most: int = MOST, head: int = HEAD, tail: int = TAIL) -> ShortenedLog | None:
    """Cut a file; return None when it does not exist or is not longer than *most*.

    Args:
        path: Path of the file.
        left_out: Bytes removed by earlier cuts; 0 for none.
        most: Maximum size, bytes.
        head: Bytes to keep of its beginning.
        tail: Bytes to keep of its end.

    Raises:
        OSError: The file cannot be cut. When the disk is full it is cut, and its end may be lost.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        size = os.fstat(descriptor).st_size
        if size <= most:
            return None
        end = os.pread(descriptor, tail, size - tail)
        previous_line = len(_line(left_out)) if left_out else 0  # the line of the previous cut is removed by this one
        left_out += size - head - tail - previous_line
        os.ftruncate(descriptor, head)
        _write(descriptor, _line(left_out) + end)
        return ShortenedLog(size, os.lseek(descriptor, 0, os.SEEK_CUR), left_out)
    finally:
        os.close(descriptor)


def _line(left_out: int) -> bytes:
    return f"\n… {left_out} bytes left out here to limit the size of this log file …\n".encode()


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
