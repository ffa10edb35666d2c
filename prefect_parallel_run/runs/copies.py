"""Reads which runs an object store holds, and which are executing, without fetching run directories."""

from __future__ import annotations

import json
from typing import Any

from prefect_parallel_run.runs.mirror import is_active
from prefect_parallel_run.storage import objects
from prefect_parallel_run.storage.paths import RUNS_FOLDER


def run_names(output: str) -> list[str]:
    """Return the names of the runs of an output (a URL without a trailing slash), newest first."""
    names = [name.rstrip("/") for name in objects.names_below(f"{output}/{RUNS_FOLDER}") if name.endswith("/")]
    return sorted(names, key=lambda name: name.rsplit("-", 2)[1:], reverse=True)  # they end in time and token


def active_owner(url: str) -> dict[str, Any] | None:
    """Return ``pid`` and ``host`` of the process that executes the run whose copy is at *url*, or None if its lock is stale."""
    try:
        owner: dict[str, Any] = json.loads(objects.read(f"{url}/lock.json"))
    except FileNotFoundError:
        return None
    return {"pid": owner["pid"], "host": owner["host"]} if is_active(owner) else None
