"""A run whose input is still being listed: planning goes on in the background while the first mini-batches run."""

from __future__ import annotations

import queue
import time
from contextlib import suppress
from pathlib import Path

from prefect_parallel_run._threads import Background
from prefect_parallel_run.errors import OutputError
from prefect_parallel_run.planning.plan import Group, PlanSummary
from prefect_parallel_run.planning.spool import Spool
from prefect_parallel_run.planning.writing import Planning, PlanWriter

_FLUSH_EVERY = 0.1  #: s: what is planned is handed out that soon, in groups that are not too small to be worth it


class Planner:
    """Writes a plan in the background, from the moment it is made.

    Every mini-batch is in the spool before ``take`` tells of it, and once ``is_over`` is true the whole plan is in place.
    """

    def __init__(self, planning: Planning, plan: Path, spool: Path) -> None:
        self.plan = Spool(spool)  #: what is planned so far
        self._path, self._spool = plan, spool
        self._next_flush = 0.0
        self._fresh: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        self._writer = PlanWriter(plan, self._grow)
        self._work: Background[PlanSummary] = Background(
            "planning", lambda check_cancelled: planning.write(self._writer, check_cancelled)
        ).start()

    def is_over(self) -> bool:
        """True once everything is planned; raises what went wrong with that."""
        return self._work.is_over()

    def summary(self) -> PlanSummary:
        """Return what the plan holds, once everything is planned."""
        return self._work.wait(lambda: None)

    def take(self) -> list[list[int]]:
        """Return the items of the mini-batches planned since the last call, in order, a list per group."""
        if time.monotonic() >= self._next_flush:
            self._next_flush = time.monotonic() + _FLUSH_EVERY
            try:
                self._writer.flush()
            except OSError as error:
                raise OutputError(str(self._path.parent), f"cannot be written: {error.strerror or error}") from error
        taken = []
        while not self._fresh.empty():
            taken.append(self._fresh.get())
        return taken

    def stop(self) -> None:
        """End planning; what is whole stays, and so does the spool of what is not."""
        self._work.stop()
        self.plan.close()
        if self._path.exists():
            with suppress(OSError):  # a left-over that harms nothing
                self._spool.unlink()

    def _grow(self, group: Group) -> None:
        self.plan.append(group)
        self._fresh.put(group.items)
