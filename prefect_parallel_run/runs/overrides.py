"""Overrides that users set while a run was executing: limits, and processes per node.

They belong to the run and outlive its execution: they also apply when the run is resumed or its result reused. An override is
dropped when the configuration has a new value: neither the one that the run was started with, nor the one that was overridden.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.runs.commands import LIMITS, PROCESSES
from prefect_parallel_run.runs.ledger import Ledger

FACT = "adjustments"  #: key in ledger and receipt
_FIELDS = (*LIMITS, PROCESSES)


@dataclass(frozen=True, slots=True)
class Adjustments:
    """New values by configuration field, each with the values that it overrides."""

    changes: Mapping[str, tuple[Any, tuple[Any, ...]]]

    def __bool__(self) -> bool:
        return bool(self.changes)

    def of(self, config: ParallelRunConfig) -> ParallelRunConfig:
        """Return *config* with the overrides applied."""
        changed = self._changed({name: getattr(config, name) for name in self.changes})
        return config.model_copy(update=changed) if changed else config

    def in_values(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a configuration in plain values with the overrides applied."""
        return {**config, **self._changed(config)}

    def _changed(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {name: now for name, (now, before) in self.changes.items() if config.get(name) in before}

    def with_values(self, values: Mapping[str, float], *configs: Mapping[str, Any]) -> Adjustments:
        """Return a copy with further *values*, which override those of all *configs*."""
        added = {name: (value, tuple(config.get(name) for config in configs)) for name, value in values.items()}
        return Adjustments({**self.changes, **added})

    def without(self, names: Collection[str]) -> Adjustments:
        """Return a copy without some fields, for which the user has just passed new values."""
        return replace(self, changes={name: change for name, change in self.changes.items() if name not in names})

    def to_facts(self) -> dict[str, Any]:
        """Return the overrides as values for JSON."""
        return {name: {"now": now, "instead_of": list(before)} for name, (now, before) in self.changes.items()}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Adjustments:
        """Return the overrides that ``to_facts`` wrote."""
        return cls({name: (entry["now"], tuple(entry["instead_of"])) for name, entry in facts.items() if name in _FIELDS})

    @classmethod
    def of_ledger(cls, ledger: Ledger) -> Adjustments:
        """Return the overrides in the ledger of an unfinished run."""
        return cls.from_ledger_facts(ledger.facts())

    @classmethod
    def from_ledger_facts(cls, facts: Mapping[str, str]) -> Adjustments:
        """Return the overrides in the facts of a ledger."""
        return cls.from_facts(json.loads(facts.get(FACT, "{}")))

    @classmethod
    def of_receipt(cls, receipt: Mapping[str, Any]) -> Adjustments:
        """Return the overrides of a finished run; receipts of earlier versions have none."""
        return cls.from_facts(receipt.get(FACT, {}))

    def note(self, ledger: Ledger) -> None:
        """Record the overrides in the ledger."""
        ledger.note(**{FACT: json.dumps(self.to_facts())})
