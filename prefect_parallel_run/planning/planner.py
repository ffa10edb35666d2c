"""Plans the input of a run in the background while its first mini-batches run."""

from __future__ import annotations

import queue
import time
from contextlib import suppress
from pathlib import Path

from prefect_parallel_run._atomic import wrap_disk_errors
from prefect_parallel_run._threads import Background
from prefect_parallel_run.planning.plan import Group, PlanSummary
from prefect_parallel_run.planning.spool import Spool
from prefect_parallel_run.planning.writing import Planning, PlanWriter

_FLUSH_EVERY = 0.1  #: s between flushes: a compromise between latency and the size of groups


class Planner:
    """Writes a plan in the background; starts immediately.

    Every mini-batch is in the spool before ``take`` returns it. Once ``is_over`` is true, the complete plan file exists.
    """

    def __init__(self, planning: Planning, plan: Path, spool: Path) -> None:
        self.plan = Spool(spool)  #: the mini-batches planned so far
        self._path, self._spool = plan, spool
        self._next_flush = 0.0
        self._new: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        self._writer = PlanWriter(plan, self._append)
        self._work: Background[PlanSummary] = Background(
            "planning", lambda check_cancelled: planning.write(self._writer, check_cancelled)
        ).start()

    def is_over(self) -> bool:
        """True once planning has finished; raises its error."""
        return self._work.is_over()

    def summary(self) -> PlanSummary:
        """Wait for the end of planning and return the summary."""
        return self._work.wait()

    def take(self) -> list[list[int]]:
        """Return the numbers of items of the mini-batches planned since the last call, in order, one list per group."""
        if time.monotonic() >= self._next_flush:
            self._next_flush = time.monotonic() + _FLUSH_EVERY
            with wrap_disk_errors(self._path.parent):
                self._writer.flush()
        groups = []
        while not self._new.empty():
            groups.append(self._new.get())
        return groups

    def stop(self) -> None:
        """Stop planning; keep a complete plan, or else the spool."""
        self._work.stop()
        self.plan.close()
        if self._path.exists():
            with suppress(OSError):  # a leftover spool is harmless
                self._spool.unlink()

    def _append(self, group: Group) -> None:
        self.plan.append(group)
        self._new.put(group.items)
