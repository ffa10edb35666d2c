"""What can be told of the runs of an output in a store without fetching any of them."""

from __future__ import annotations

import json
from typing import Any

from prefect_parallel_run.runs.mirror import is_held
from prefect_parallel_run.runs.run_directory import FOLDER
from prefect_parallel_run.storage import objects


def names_of_runs(output: str) -> list[str]:
    """Return the names of the runs of an output, a URL without a slash at its end, the newest first."""
    names = [name.rstrip("/") for name in objects.names_below(f"{output}/{FOLDER}") if name.endswith("/")]
    return sorted(names, key=lambda name: name.rsplit("-", 2)[1:], reverse=True)  # they end in time and token


def driver_of(url: str) -> dict[str, Any] | None:
    """Return who drives the run whose copy is at *url*, as ``pid`` and ``host``; None when nobody gives a sign of life."""
    try:
        held: dict[str, Any] = json.loads(objects.read(f"{url}/lock.json"))
    except FileNotFoundError:
        return None
    return {"pid": held["pid"], "host": held["host"]} if is_held(held) else None
