"""Cuts a growing log file down in place: its beginning and its newest end stay, and a line that says what is left out.

Whoever writes to it has opened it to append, so that the next write lands at the new end. What is written in the instant of the
cut may be lost, or stand above the line.
"""

from __future__ import annotations

import os
from typing import NamedTuple

MOST = 16 << 20  #: bytes; a file that is longer is cut
HEAD = 1 << 20  #: bytes of its beginning that stay
TAIL = 7 << 20  #: bytes of its end that stay


class ShortenedLog(NamedTuple):
    """What came of a cut."""

    seen: int  #: bytes that the file had
    end: int  #: where the end that stays now ends: what is appended later comes behind
    left_out: int  #: bytes left out of the file so far, by earlier cuts too


def shorten(path: str, left_out: int, most: int = MOST, head: int = HEAD, tail: int = TAIL) -> ShortenedLog | None:
    """Cut a file, and return what came of it; None when it is no longer than *most*, or not there.

    Args:
        path: Of the file.
        left_out: Bytes that earlier cuts have left out of it; 0 for none.
        most: Bytes that it may have.
        head: Bytes of its beginning that stay.
        tail: Bytes of its end that stay.

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
        known = len(_line(left_out)) if left_out else 0  # the line of the cut before is among what is left out now
        left_out += size - head - tail - known
        os.ftruncate(descriptor, head)
        _write(descriptor, _line(left_out) + end)
        return ShortenedLog(size, os.lseek(descriptor, 0, os.SEEK_CUR), left_out)
    finally:
        os.close(descriptor)


def _line(left_out: int) -> bytes:
    return f"\n… {left_out} bytes left out here: a log file is kept short …\n".encode()


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
