"""What a person has changed about a run while it went on: limits, and processes per node.

It belongs to the run, and outlives its driving: whoever goes on with the run, or asks for its result, does so under what was
changed. It gives way where the configuration says something new: neither what the run was begun with, nor what the change was
made from.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.runs.commands import LIMITS, PROCESSES
from prefect_parallel_run.runs.ledger import Ledger

FACT = "adjustments"  #: their name in ledger and receipt
_FIELDS = (*LIMITS, PROCESSES)


@dataclass(frozen=True, slots=True)
class Adjustments:
    """New values by configuration field, each with those that it stands for."""

    changes: Mapping[str, tuple[Any, tuple[Any, ...]]]

    def __bool__(self) -> bool:
        return bool(self.changes)

    def of(self, config: ParallelRunConfig) -> ParallelRunConfig:
        """Return *config* as it was changed."""
        changed = self._changed({name: getattr(config, name) for name in self.changes})
        return config.model_copy(update=changed) if changed else config

    def in_values(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a configuration in plain values as it was changed."""
        return {**config, **self._changed(config)}

    def _changed(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {name: now for name, (now, before) in self.changes.items() if config.get(name) in before}

    def with_values(self, values: Mapping[str, float], *configs: Mapping[str, Any]) -> Adjustments:
        """Return them with further *values*, which stand for those of all *configs*."""
        fresh = {name: (value, tuple(config.get(name) for config in configs)) for name, value in values.items()}
        return Adjustments({**self.changes, **fresh})

    def without(self, names: Collection[str]) -> Adjustments:
        """Return them but for some fields, of which a person has just said what they are to be."""
        return replace(self, changes={name: change for name, change in self.changes.items() if name not in names})

    def to_facts(self) -> dict[str, Any]:
        """Return them as values for JSON."""
        return {name: {"now": now, "instead_of": list(before)} for name, (now, before) in self.changes.items()}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Adjustments:
        """Return what ``to_facts`` was called on."""
        return cls({name: (one["now"], tuple(one["instead_of"])) for name, one in facts.items() if name in _FIELDS})

    @classmethod
    def of_ledger(cls, ledger: Ledger) -> Adjustments:
        """Return those of a run that may be gone on with."""
        return cls.of_noted(ledger.facts())

    @classmethod
    def of_noted(cls, noted: Mapping[str, str]) -> Adjustments:
        """Return those that the facts of a ledger tell of."""
        return cls.from_facts(json.loads(noted.get(FACT, "{}")))

    @classmethod
    def of_receipt(cls, receipt: Mapping[str, Any]) -> Adjustments:
        """Return those of a run that is finished; one of an earlier version has none."""
        return cls.from_facts(receipt.get(FACT, {}))

    def note(self, ledger: Ledger) -> None:
        """Have the ledger know them."""
        ledger.note(**{FACT: json.dumps(self.to_facts())})
