"""Records the executions of a run in its ledger: times, package versions, configuration and how each ended."""

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
    ledger.note(**{f"drive.{number}": json.dumps(record)})


def record_end(ledger: Ledger, status: str, reason: str) -> None:
    """Record how the latest execution ended."""
    number = ledger.facts().get("drives", "0")
    ledger.note(**{f"drive.{number}.end": json.dumps({"ended": time.time(), "status": status, "reason": reason})})


def drives(facts: Mapping[str, str]) -> list[Execution]:
    """Return the executions recorded in *facts* of a ledger, in order; early versions recorded none."""
    return [
        Execution(number, **json.loads(begin), **json.loads(facts.get(f"drive.{number}.end", "{}")))
        for number in range(1, int(facts.get("drives", "0")) + 1)
        if (begin := facts.get(f"drive.{number}")) is not None
    ]


def effective_config(facts: Mapping[str, str], first: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that a run has, or had at its end.

    Args:
        facts: From its ledger: the latest execution may have another configuration, and users may have overridden that.
        first: The configuration that the run was started with.
    """
    executions = drives(facts)
    return Adjustments.from_ledger_facts(facts).in_values({**first, **(executions[-1].config if executions else {})})


def config_of(directory: RunDirectory) -> dict[str, Any]:
    """Return the configuration that the run in *directory* has, or had at its end, without environment_variables."""
    first: dict[str, Any] = directory.facts()["config"]
    if not directory.ledger.exists():  # planning has not started
        return first
    with Ledger(directory.ledger) as ledger:
        return effective_config(ledger.facts(), first)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the relevant packages in this process."""
    known = {"python": platform.python_version(), "prefect_parallel_run": __version__}
    for name in _PACKAGES:
        try:
            known[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return known
