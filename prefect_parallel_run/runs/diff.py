"""What is different between a run as it was planned and the world as it is now, item by item."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.models import MiniBatch

_MOST = 20  #: differences named


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line per difference, inputs left out; nothing when the run would be the same.

    Args:
        then: ``identity`` (its parts), ``code`` (SHA-256 by file) and ``result_fields`` (the configuration's fields).
        now: The same, of the world as it is.
    """
    before, after = then["identity"], now["identity"]
    if before["config_sha256"] != after["config_sha256"]:
        yield from _fields("configuration", then["shaping"], now["shaping"])
    if before["script_sha256"] != after["script_sha256"]:
        yield from _entries("script file", then["code"], now["code"])
    if before["arguments"] != after["arguments"]:
        yield f"arguments were {before['arguments']}, are {after['arguments']}"
    yield from _entries("side input", before["side_inputs"], after["side_inputs"])
    yield from _entries("model", before.get("models", {}), after.get("models", {}))  # runs of earlier versions have none
    is_comparable = then.get("key_id") == now.get("key_id")  # hashes under the keys of two machines are not
    if is_comparable and before["environment_variables"] != after["environment_variables"]:
        yield "the values of environment_variables are others"


def input_differences(planned: Iterable[MiniBatch], datasets: Iterable[Dataset]) -> Iterator[str]:
    """Yield one line for every file that is not what it was when *planned* was made."""
    before = _files(planned)
    after = {file.path: (file.size, file.version) for dataset in datasets for file in dataset.listing()}
    if before and after and not before.keys() & after.keys():  # a table that was partitioned anew lies elsewhere
        yield "the input files are others"
    else:
        yield from _entries("input file", before, after)


def some(changes: Iterable[str]) -> tuple[str, ...]:
    """Return as many of *changes* as a person reads."""
    found = list(islice(changes, _MOST + 1))
    if len(found) > _MOST:
        found[_MOST:] = ["and more"]
    return tuple(found)


def _fields(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield f"{what}: {name} was {before.get(name)!r}, is {after.get(name)!r}"


def _entries(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        if name not in after:
            yield f"{what} {name} is gone"
        elif name not in before:
            yield f"{what} {name} is new"
        elif before[name] != after[name]:
            yield f"{what} {name} has changed"


def _files(planned: Iterable[MiniBatch]) -> dict[str, tuple[int, int | str]]:
    """Return size and version of every input file of a plan, by path."""
    found: dict[str, tuple[int, int | str]] = {}
    for mini_batch in planned:
        work = json.loads(mini_batch.work)
        if work["kind"] == "files":
            for name, size, version in zip(work["names"], work["sizes"], work["versions"], strict=True):
                found[work["root"] + name] = (size, version)
        else:
            for table in work.get("tables", [work]):
                found[table["path"]] = (table["size"], table["version"])
    return found
