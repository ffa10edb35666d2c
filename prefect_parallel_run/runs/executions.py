"""Records the executions of a run in its ledger: times, versions, configuration, overrides of it, and how each ended."""

from __future__ import annotations

import json
import platform
import socket
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect_parallel_run import __version__
from prefect_parallel_run.runs.commands import LIMITS, PROCESSES
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from prefect_parallel_run.config.model import ParallelRunConfig

_PACKAGES = ("prefect", "dask", "distributed", "pandas", "pyarrow")
METADATA_KEY = "adjustments"  #: key in ledger and receipt
_FIELDS = (*LIMITS, PROCESSES)


class Execution(NamedTuple):
    """One period in which a process executed a run."""

    number: int  #: from 1
    began: float  #: Unix time, s
    host: str
    versions: dict[str, str]  #: by package, Python among them
    config: dict[str, Any]  #: without environment_variables
    ended: float | None = None  #: None: still running, or it died without recording its end
    status: str = ""
    reason: str = ""


def record_start(ledger: Ledger, number: int, config: ParallelRunConfig) -> None:
    """Record the start of the *number*-th execution."""
    record = {
        "began": time.time(),
        "host": socket.gethostname(),
        "versions": versions(),
        "config": config.model_dump(mode="json", exclude={"environment_variables"}),
    }
    ledger.record(**{f"drive.{number}": json.dumps(record)})


def record_end(ledger: Ledger, status: str, reason: str) -> None:
    """Record how the latest execution ended."""
    number = ledger.metadata().get("drives", "0")
    ledger.record(**{f"drive.{number}.end": json.dumps({"ended": time.time(), "status": status, "reason": reason})})


def recorded_executions(metadata: Mapping[str, str]) -> list[Execution]:
    """Return the executions in the *metadata* of a ledger, in order; early versions recorded none."""
    return [
        Execution(number, **json.loads(begin), **json.loads(metadata.get(f"drive.{number}.end", "{}")))
        for number in range(1, int(metadata.get("drives", "0")) + 1)
        if (begin := metadata.get(f"drive.{number}")) is not None
    ]


def effective_config(metadata: Mapping[str, str], first: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that a run has, or had at its end.

    Args:
        metadata: Metadata of its ledger, with the configuration of the latest execution and the users' overrides.
        first: The configuration that the run was started with.
    """
    executions = recorded_executions(metadata)
    return Overrides.of_metadata(metadata).in_values({**first, **(executions[-1].config if executions else {})})


def config_of(directory: RunDirectory) -> dict[str, Any]:
    """Return the configuration that the run in *directory* has, or had at its end, without environment_variables."""
    first: dict[str, Any] = directory.metadata()["config"]
    if not directory.ledger.exists():  # planning has not started
        return first
    with Ledger(directory.ledger) as ledger:
        return effective_config(ledger.metadata(), first)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the relevant packages in this process."""
    known = {"python": platform.python_version(), "prefect_parallel_run": __version__}
    for name in _PACKAGES:
        try:
            known[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return known


@dataclass(frozen=True, slots=True)
class Overrides:
    """Limits, and processes per node, that users set while a run was executing.

    They belong to the run and outlive its execution: they also apply when the run is resumed or its result reused. An override
    is dropped when the configuration has a new value: neither the one that the run was started with, nor the one overridden.
    """

    changes: Mapping[str, tuple[Any, tuple[Any, ...]]]  #: by field: the new value, and those that it overrides

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

    def with_values(self, values: Mapping[str, float], *configs: Mapping[str, Any]) -> Overrides:
        """Return a copy with further *values*, which override those of all *configs*."""
        added = {name: (value, tuple(config.get(name) for config in configs)) for name, value in values.items()}
        return Overrides({**self.changes, **added})

    def without(self, names: Collection[str]) -> Overrides:
        """Return a copy without some fields, for which the user has just passed new values."""
        return replace(self, changes={name: change for name, change in self.changes.items() if name not in names})

    def to_values(self) -> dict[str, Any]:
        """Return the overrides as values for JSON."""
        return {name: {"now": now, "instead_of": list(before)} for name, (now, before) in self.changes.items()}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Overrides:
        """Return the overrides that ``to_values`` wrote."""
        return cls({name: (entry["now"], tuple(entry["instead_of"])) for name, entry in values.items() if name in _FIELDS})

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str]) -> Overrides:
        """Return the overrides in the metadata of the ledger of an unfinished run."""
        return cls.from_values(json.loads(metadata.get(METADATA_KEY, "{}")))

    @classmethod
    def of_receipt(cls, receipt: Mapping[str, Any]) -> Overrides:
        """Return the overrides of a finished run; receipts of earlier versions have none."""
        return cls.from_values(receipt.get(METADATA_KEY, {}))

    def record(self, ledger: Ledger) -> None:
        """Record the overrides in the ledger."""
        ledger.record(**{METADATA_KEY: json.dumps(self.to_values())})
