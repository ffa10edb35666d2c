"""What is different between a run as it was planned and the world as it is now, item by item."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from prefect_parallel_run.planning import Plan

_MOST = 20  #: differences named; further ones are counted


def differences(then: Mapping[str, Any], now: Mapping[str, Any], plan_then: Plan, plan_now: Plan) -> tuple[str, ...]:
    """Return one line per difference; nothing when the run would be the same.

    Args:
        then: ``identity`` (its parts), ``code`` (SHA-256 by file) and ``shaping`` (the configuration's fields).
        now: The same, of the world as it is.
        plan_then: Looked into only when the contents of the plans differ.
        plan_now: The same.
    """
    found = list(islice(_all(then, now, plan_then, plan_now), _MOST + 1))
    if len(found) > _MOST:
        found[_MOST:] = ["and more"]
    return tuple(found)


def _all(then: Mapping[str, Any], now: Mapping[str, Any], plan_then: Plan, plan_now: Plan) -> Iterator[str]:
    before, after = then["identity"], now["identity"]
    if before["config_sha256"] != after["config_sha256"]:
        yield from _fields("configuration", then["shaping"], now["shaping"])
    if before["script_sha256"] != after["script_sha256"]:
        yield from _entries("script file", then["code"], now["code"])
    if before["arguments"] != after["arguments"]:
        yield f"arguments were {before['arguments']}, are {after['arguments']}"
    yield from _entries("side input", before["side_inputs"], after["side_inputs"])
    if before["environment_variables"] != after["environment_variables"]:
        yield "the values of environment_variables are others"
    if before["plan_sha256"] != after["plan_sha256"]:
        named = list(islice(_entries("input file", _files(plan_then), _files(plan_now)), _MOST + 1))
        yield from named or ["the same input files are cut into other mini-batches"]


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


def _files(plan: Plan) -> dict[str, tuple[int, int | str]]:
    """Return size and version of every input file of a plan, by path."""
    found: dict[str, tuple[int, int | str]] = {}
    for mini_batch in plan.mini_batches():
        work = json.loads(mini_batch.work)
        if work["kind"] == "files":
            for name, size, version in zip(work["names"], work["sizes"], work["versions"], strict=True):
                found[work["root"] + name] = (size, version)
        else:
            for table in work.get("tables", [work]):
                found[table["path"]] = (table["size"], table["version"])
    return found
