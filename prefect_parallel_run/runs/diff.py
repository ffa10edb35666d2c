"""Lists the differences between a run as it was planned and its present code, configuration and inputs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from prefect_parallel_run._threads import Background, CheckCancelled, never_cancelled
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.errors import InputChangedError
from prefect_parallel_run.models import MiniBatch
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.planning.writing import inputs_sha256
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.runs.spec import StepSpec

_MOST = 20  #: differences named


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line per difference, except those of input files; nothing when the fingerprints are equal.

    Args:
        then: ``identity`` (its parts), ``code`` (SHA-256 by file) and ``shaping`` (the configuration's fields), as planned.
        now: The present values, in the same form.
    """
    before, after = then["identity"], now["identity"]
    if before["config_sha256"] != after["config_sha256"]:
        yield from _compare_fields("configuration", then["shaping"], now["shaping"])
    if before["script_sha256"] != after["script_sha256"]:
        yield from _compare_entries("script file", then["code"], now["code"])
    if before["arguments"] != after["arguments"]:
        yield f"arguments were {before['arguments']}, are {after['arguments']}"
    yield from _compare_entries("side input", before["side_inputs"], after["side_inputs"])
    yield from _compare_entries(
        "model", before.get("models", {}), after.get("models", {})
    )  # runs of earlier versions have none
    is_comparable = then.get("key_id") == now.get("key_id")  # hashes under the keys of two machines always differ
    if is_comparable and before["environment_variables"] != after["environment_variables"]:
        yield "the values of environment_variables differ"


def input_differences(planned: Iterable[MiniBatch], datasets: Iterable[Dataset]) -> Iterator[str]:
    """Yield one line for every file that was added, deleted or modified since *planned* was made."""
    before = _files(planned)
    after = {file.path: (file.size, file.version) for dataset in datasets for file in dataset.listing()}
    if before and after and not before.keys() & after.keys():  # a table that was partitioned again has another path
        yield "the input files differ"
    else:
        yield from _compare_entries("input file", before, after)


def some(changes: Iterable[str]) -> tuple[str, ...]:
    """Return the first of *changes*, and "and more" if there are more than a person reads."""
    lines = list(islice(changes, _MOST + 1))
    if len(lines) > _MOST:
        lines[_MOST:] = ["and more"]
    return tuple(lines)


def _compare_fields(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield f"{what}: {name} was {before.get(name)!r}, is {after.get(name)!r}"


def _compare_entries(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        if name not in after:
            yield f"{what} {name} no longer exists"
        elif name not in before:
            yield f"{what} {name} is new"
        elif before[name] != after[name]:
            yield f"{what} {name} has changed"


def _files(planned: Iterable[MiniBatch]) -> dict[str, tuple[int, int | str]]:
    """Return size and version of every input file of a plan, by path."""
    versions: dict[str, tuple[int, int | str]] = {}
    for mini_batch in planned:
        work = json.loads(mini_batch.work)
        if work["kind"] == "files":
            for name, size, version in zip(work["names"], work["sizes"], work["versions"], strict=True):
                versions[work["root"] + name] = (size, version)
        else:
            for table in work.get("tables", [work]):
                versions[table["path"]] = (table["size"], table["version"])
    return versions


class InputCheck:
    """Lists the inputs of *spec* and compares them with the existing plan in *directory*."""

    def __init__(self, directory: RunDirectory, spec: StepSpec) -> None:
        self._directory, self._datasets = directory, spec.datasets
        self._is_verified = False
        self._listing = Background("listing", lambda check_cancelled: inputs_sha256(spec.datasets, check_cancelled)).start()

    def raise_if_failed(self) -> None:
        """Raise InputChangedError, which names every difference, if the listing has ended and differs from the plan."""
        if not self._is_verified and self._listing.is_over():
            self.wait()

    def wait(self, check_cancelled: CheckCancelled = never_cancelled) -> None:
        """Return when all inputs are verified; raises InputChangedError."""
        plan = Plan.open(self._directory.plan)
        if self._listing.wait(check_cancelled) != plan.summary.inputs_sha256:
            changes = some(input_differences(plan.mini_batches(), self._datasets))
            raise InputChangedError(str(self._directory.path), changes or ("the order of its input files has changed",))
        self._is_verified = True

    def stop(self) -> None:
        """Cancel the verification."""
        self._listing.stop()
