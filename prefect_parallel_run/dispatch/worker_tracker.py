"""Tracks live workers from the scheduler's reports. Pure: time and reports are arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Changes(NamedTuple):
    """Changes since the last update, as sorted addresses."""

    new: list[str]  #: new, or alive again
    gone: list[str]  #: no longer listed by the scheduler
    silent: list[str]  #: still listed, but without a heartbeat for too long: stopped, cut off, hung


@dataclass(slots=True)
class _Worker:
    last_seen: float  # the scheduler's time stamp; its clock is not ours, so it is only compared with itself
    since: float  # our clock at its last change
    is_silent: bool = False


class WorkerTracker:
    """Tracks the workers of a scheduler by their heartbeats.

    Args:
        patience: Seconds without a heartbeat after which a worker counts as lost.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._workers: dict[str, _Worker] = {}

    def update(self, heartbeats: Mapping[str, float], now: float) -> Changes:
        """Record the latest heartbeat of every worker and return the changes.

        >>> tracker = WorkerTracker(30)
        >>> tracker.update({"a": 5.0, "b": 5.0}, 0).new
        ['a', 'b']
        >>> tracker.update({"a": 6.0, "b": 5.0}, 31)
        Changes(new=[], gone=[], silent=['b'])
        >>> tracker.update({"b": 7.0}, 32)
        Changes(new=['b'], gone=['a'], silent=[])
        """
        gone = [address for address, worker in self._workers.items() if address not in heartbeats and not worker.is_silent]
        self._workers = {address: worker for address, worker in self._workers.items() if address in heartbeats}
        new, silent = [], []
        for address, last_seen in heartbeats.items():
            worker = self._workers.get(address)
            if worker is None:
                new.append(address)
                self._workers[address] = _Worker(last_seen, now)
            elif last_seen != worker.last_seen:
                if worker.is_silent:
                    new.append(address)
                self._workers[address] = _Worker(last_seen, now)
            elif not worker.is_silent and now - worker.since > self._patience:
                worker.is_silent = True
                silent.append(address)
        return Changes(sorted(new), sorted(gone), sorted(silent))
