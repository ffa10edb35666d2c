"""What a process and all that came of it use: memory at most, CPU seconds so far. Read from /proc."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_ROLES = {
    b"prefect_parallel_run/child/__main__.py": "children",
    b"prefect_parallel_run/compute/worker.py": "Dask workers",
    b"prefect_parallel_run/node/reaper.py": "guardians",
}


def peak_mb(pid: int | str = "self") -> float:
    """Return what a process has held at most, MB."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


class Family:
    """Follows a process and its descendants, those whose parent has ended included."""

    def __init__(self, root: int) -> None:
        self._members, self._root = {root}, root
        self._cpu: dict[int, float] = {}
        self._roles: dict[int, str] = {root: "flow process"}
        self.together_mb = 0.0  #: of all at one moment; what they share in /dev/shm counts once
        self.largest_child_mb = 0.0  #: of the processes that run the entry script
        self._before = 0.0
        with contextlib.suppress(OSError):
            self._before = self._seconds(root)

    def look(self) -> None:
        """Look once."""
        resident = shared = 0
        for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
            with contextlib.suppress(OSError, ValueError, IndexError, KeyError):  # it has ended meanwhile
                status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
                if pid not in self._members and int(status["PPid"]) not in self._members:
                    continue
                self._members.add(pid)
                kilobytes = {key: int(status[key].split()[0]) for key in ("VmRSS", "RssShmem", "VmHWM") if key in status}
                resident += kilobytes.get("VmRSS", 0) - kilobytes.get("RssShmem", 0)
                shared = max(shared, kilobytes.get("RssShmem", 0))
                self._cpu[pid] = self._seconds(pid)
                if pid not in self._roles or self._roles[pid] == "others":
                    self._roles[pid] = self._role(pid)
                if self._roles[pid] == "children":
                    self.largest_child_mb = max(self.largest_child_mb, kilobytes.get("VmHWM", 0) / 1024)
        self.together_mb = max(self.together_mb, (resident + shared) / 1024)

    def cpu_seconds(self) -> dict[str, float]:
        """Return CPU seconds by role, as last seen; the root's from when it was first watched."""
        found: dict[str, float] = defaultdict(float)
        for pid, seconds in self._cpu.items():
            found[self._roles[pid]] += seconds - (self._before if pid == self._root else 0.0)
        return dict(found)

    @staticmethod
    def _seconds(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS  # of its own: its children are counted by themselves

    @staticmethod
    def _role(pid: int) -> str:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return next((role for mark, role in _ROLES.items() if mark in command), "others")
