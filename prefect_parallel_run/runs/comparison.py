"""Compares an earlier run with the step of today: what differs, whether it can be resumed, whether its result can be reused."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from prefect_parallel_run._threads import Background, CheckCancelled, never_cancelled
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.errors import InputChangedError, InputError, LimitExceededError, RowsDifferError
from prefect_parallel_run.models import Breach, MiniBatch, Tally
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.planning.planner import inputs_sha256
from prefect_parallel_run.runs.executions import Overrides
from prefect_parallel_run.runs.fingerprint import listing_sha256
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory, read_json
from prefect_parallel_run.runs.spec import StepSpec, failure_limits
from prefect_parallel_run.storage.objects import file_sha256, size_and_version, size_of

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
    yield from _compare_entries("model", before.get("models", {}), after.get("models", {}))  # earlier versions had none
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
        self._listing = Background("listing", partial(inputs_sha256, spec.datasets)).start()

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


def may_be_reused(directory: RunDirectory, spec: StepSpec) -> bool:
    """True when the result is recent enough and unaltered, and its failures are within the limits of *spec*."""
    receipt = read_json(directory.receipt)
    if spec.reuse.within is not None:
        finished = float(receipt.get("finished") or directory.receipt.stat().st_mtime)  # earlier versions did not record it
        if time.time() - finished > spec.reuse.within:
            return False
    return breach_of(receipt, spec) is None and is_unaltered(receipt, spec)


def breach_of(receipt: dict[str, Any], spec: StepSpec, given: frozenset[str] = frozenset()) -> Breach | None:
    """Return the limit that a finished run exceeds, or None; overrides of that run apply, except for the *given* fields."""
    tally = Tally(
        planned=receipt["mini_batches"]["total"],
        failed=receipt["mini_batches"]["failed"],
        failed_items=receipt["items"]["failed"],
        all_scheduled=True,
    )
    config = Overrides.of_receipt(receipt).without(given).of(spec.config)
    return failure_limits(config).first_breach(tally)


def is_unaltered(receipt: dict[str, Any], spec: StepSpec) -> bool:
    """True when the result file is unchanged, and the files in the output too if the script writes them itself."""
    if spec.output is not None and (receipt["output_file"] is None or "output_listing" in receipt):
        try:
            listing = listing_sha256(spec.output)
        except InputError:  # it was deleted
            return False
        if receipt.get("output_listing") != listing:
            return False
    if receipt["output_file"] is None:
        return True
    path = str(receipt["output_file"])
    if is_remote(path):  # an object with the same ETag is unchanged, and need not be read
        return size_and_version(path) == (int(receipt["bytes"]), str(receipt["version"]))
    return size_of(path) == receipt["bytes"] and file_sha256(path) == str(receipt["sha256"])


def can_resume(directory: RunDirectory, spec: StepSpec) -> bool:
    """True for an interrupted run; for a failed one only if its failures are within the present limits."""
    with Ledger(directory.ledger) as ledger:
        tally, metadata = ledger.tally(), ledger.metadata()
        if not directory.plan.exists():  # planning did not finish
            tally = replace(tally, all_scheduled=False)
        if spec.config.isolate_failed_items:  # a resume bisects these
            count, items = ledger.isolable()
            tally = replace(tally, failed=tally.failed - count, failed_items=tally.failed_items - items)
    if failure_limits(Overrides.of_metadata(metadata).of(spec.config)).first_breach(tally) is not None:
        return False
    ended_by, is_unfinished = metadata.get("ended_by"), tally.finished < tally.planned
    may_succeed = ended_by == LimitExceededError.__name__ or (is_unfinished and ended_by != RowsDifferError.__name__)
    return may_succeed or metadata.get("status") != "failed"


def can_be_bisected(directory: RunDirectory, spec: StepSpec) -> bool:
    """True when *spec* isolates failed items and the run has failed mini-batches that were not bisected."""
    if not spec.config.isolate_failed_items:
        return False
    with Ledger(directory.ledger) as ledger:
        return ledger.isolable()[0] > 0
