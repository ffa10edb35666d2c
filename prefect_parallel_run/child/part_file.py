"""The file that a process appends its rows to. A range of it counts only once its receipt is committed."""

import os


class Part:
    """An append-only file, created on first use."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self._descriptor = -1
        self._end = 0

    def append(self, header: bytes, body: bytes) -> int:
        """Append both and return their offset. After an error, the next call writes at the same offset."""
        if self._descriptor < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
            self._descriptor = os.open(self.path, flags, 0o666)
        data = header + body if header else body
        offset, written = self._end, 0
        while written < len(data):
            written += os.pwrite(self._descriptor, data[written:] if written else data, offset + written)
        self._end += len(data)
        return offset
