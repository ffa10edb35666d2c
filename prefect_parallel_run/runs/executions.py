"""What is kept of every drive of a run, in its ledger: when it was, with which versions and configuration, how it ended."""

from __future__ import annotations

import json
import platform
import socket
import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any, NamedTuple

from prefect_parallel_run import __version__
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.overrides import Adjustments
from prefect_parallel_run.runs.run_directory import RunDirectory

_PACKAGES = ("prefect", "dask", "distributed", "pandas", "pyarrow")


class Execution(NamedTuple):
    """One time that a run was driven."""

    number: int  #: from 1
    began: float  #: Unix time, s
    host: str
    versions: dict[str, str]  #: by package, Python among them
    config: dict[str, Any]  #: without environment_variables
    ended: float | None = None  #: None: it has not ended, or had no time to say so
    status: str = ""
    reason: str = ""


def note_drive_begin(ledger: Ledger, number: int, config: ParallelRunConfig) -> None:
    """Note that the run is driven for the *number*-th time."""
    facts = {
        "began": time.time(),
        "host": socket.gethostname(),
        "versions": versions(),
        "config": config.model_dump(mode="json", exclude={"environment_variables"}),
    }
    ledger.note(**{f"drive.{number}": json.dumps(facts)})


def note_drive_end(ledger: Ledger, status: str, reason: str) -> None:
    """Note how the last drive ended."""
    number = ledger.facts().get("drives", "0")
    ledger.note(**{f"drive.{number}.end": json.dumps({"ended": time.time(), "status": status, "reason": reason})})


def drives(facts: Mapping[str, str]) -> list[Execution]:
    """Return the drives that *facts* of a ledger tell of, in order; those of an older version are not among them."""
    return [
        Execution(number, **json.loads(begin), **json.loads(facts.get(f"drive.{number}.end", "{}")))
        for number in range(1, int(facts.get("drives", "0")) + 1)
        if (begin := facts.get(f"drive.{number}")) is not None
    ]


def config_in_force(noted: Mapping[str, str], first: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that a run has, or had at its end.

    Args:
        noted: Facts of its ledger: the last drive may have had another configuration, and people may have changed that.
        first: What the run was begun with.
    """
    known = drives(noted)
    return Adjustments.of_noted(noted).in_values({**first, **(known[-1].config if known else {})})


def config_of(directory: RunDirectory) -> dict[str, Any]:
    """Return the configuration that the run in *directory* has, or had at its end, without environment_variables."""
    first: dict[str, Any] = directory.facts()["config"]
    if not directory.ledger.exists():  # nothing is planned yet
        return first
    with Ledger(directory.ledger) as ledger:
        return config_in_force(ledger.facts(), first)


def versions() -> dict[str, str]:
    """Return the versions that matter, of what runs here."""
    found = {"python": platform.python_version(), "prefect_parallel_run": __version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
