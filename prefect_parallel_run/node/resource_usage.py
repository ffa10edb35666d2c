"""Current resource usage of a machine and of some of its processes, read from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

HEADER = "time,cpu_percent,memory_used,memory_total,processes,processes_memory,disk_free\n"
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Ticks(NamedTuple):
    """Processor time of the whole machine since its start, in the system's ticks."""

    busy: int
    total: int


def ticks_of(stat: str) -> Ticks:
    """Parse the first line of /proc/stat; time spent waiting for a disk is idle time.

    >>> ticks_of("cpu  10 1 4 80 5 0 0 0 0 0")
    Ticks(busy=15, total=100)
    """
    fields = [int(field) for field in stat.split()[1:9]]  # the remaining two are included in the first two
    return Ticks(sum(fields) - sum(fields[3:5]), sum(fields))


def memory_of(meminfo: str) -> tuple[int, int]:
    r"""Return the used and the total bytes from /proc/meminfo; memory that can be reclaimed is not in use.

    >>> memory_of("MemTotal: 100 kB\nMemFree: 10 kB\nMemAvailable: 60 kB\n")
    (40960, 102400)
    """
    sizes = {name: int(value.split()[0]) << 10 for name, _, value in (line.partition(":") for line in meminfo.splitlines())}
    return sizes["MemTotal"] - sizes["MemAvailable"], sizes["MemTotal"]


class Machine:
    """Samples the machine's resource usage.

    Args:
        folder: Folder on the disk whose free space is reported.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._previous = self._ticks()

    def sample(self, now: float, pids: Iterable[int]) -> str:
        """Return a CSV line with the columns of HEADER.

        Args:
            now: Unix time, s.
            pids: Process ids of the children; their own child processes are not counted.
        """
        ticks = self._ticks()
        elapsed = max(ticks.total - self._previous.total, 1)
        percent = 100.0 * (ticks.busy - self._previous.busy) / elapsed
        self._previous = ticks
        used, total = memory_of(_read("/proc/meminfo"))
        memory = [resident(pid) for pid in pids]
        disk = os.statvfs(self._folder)
        free = disk.f_bavail * disk.f_frsize
        return f"{now:.3f},{min(max(percent, 0.0), 100.0):.1f},{used},{total},{len(memory)},{sum(memory)},{free}\n"

    def _ticks(self) -> Ticks:
        return ticks_of(_read("/proc/stat").partition("\n")[0])


def resident(pid: int) -> int:
    """Return the resident memory of a process, bytes; 0 when it has exited."""
    try:
        fields = _read(f"/proc/{pid}/statm").split()
    except OSError:
        return 0
    return int(fields[1]) * _PAGE if len(fields) > 1 else 0


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:  # noqa: PTH123  several times a second: pathlib would double it
        return file.read()
