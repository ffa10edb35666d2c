"""Which workers there are, by what the scheduler says from time to time. Pure: time and reports are arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Changes(NamedTuple):
    """How the workers differ from the last look, by address, sorted."""

    fresh: list[str]  #: new, or heard of again
    gone: list[str]  #: the scheduler has forgotten them
    silent: list[str]  #: still listed, but without a sign of life for too long: stopped, cut off, hung


@dataclass(slots=True)
class _Sign:
    check_cancelled: float  # as the scheduler stamped it; its clock is not ours, so it is only compared with itself
    since: float  # our clock when it last changed
    is_silent: bool = False


class Roster:
    """Follows the workers of a scheduler.

    Args:
        patience: Seconds without a heartbeat after which a worker counts as lost.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._signs: dict[str, _Sign] = {}

    def look(self, heartbeats: Mapping[str, float], now: float) -> Changes:
        """Take note of every worker's latest heartbeat, and return what has changed.

        >>> roster = Roster(30)
        >>> roster.look({"a": 5.0, "b": 5.0}, 0).fresh
        ['a', 'b']
        >>> roster.look({"a": 6.0, "b": 5.0}, 31)
        Changes(fresh=[], gone=[], silent=['b'])
        >>> roster.look({"b": 7.0}, 32)
        Changes(fresh=['b'], gone=['a'], silent=[])
        """
        gone = [address for address, sign in self._signs.items() if address not in heartbeats and not sign.is_silent]
        self._signs = {address: sign for address, sign in self._signs.items() if address in heartbeats}
        fresh, silent = [], []
        for address, check_cancelled in heartbeats.items():
            sign = self._signs.get(address)
            if sign is None:
                fresh.append(address)
                self._signs[address] = _Sign(check_cancelled, now)
            elif check_cancelled != sign.check_cancelled:
                if sign.is_silent:
                    fresh.append(address)
                self._signs[address] = _Sign(check_cancelled, now)
            elif not sign.is_silent and now - sign.since > self._patience:
                sign.is_silent = True
                silent.append(address)
        return Changes(sorted(fresh), sorted(gone), sorted(silent))
