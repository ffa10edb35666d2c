"""Decides whether an earlier run can be resumed, and whether the result of a finished one can be reused."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.errors import InputError, LimitExceededError, RowsDifferError
from prefect_parallel_run.models import Breach, Tally
from prefect_parallel_run.runs.executions import Overrides
from prefect_parallel_run.runs.fingerprint import listing_sha256
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory, read_json
from prefect_parallel_run.runs.spec import StepSpec, failure_limits
from prefect_parallel_run.storage.objects import file_sha256, size_and_version, size_of


def may_be_reused(directory: RunDirectory, spec: StepSpec) -> bool:
    """True when the result is recent enough and unaltered, and its failures are within the limits of *spec*."""
    receipt = read_json(directory.receipt)
    if spec.reuse_for is not None:
        finished = float(receipt.get("finished") or directory.receipt.stat().st_mtime)  # earlier versions did not record it
        if time.time() - finished > spec.reuse_for:
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
