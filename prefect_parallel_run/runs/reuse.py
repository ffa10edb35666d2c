"""Whether the result of a finished run can be returned: it is young enough, unaltered, and its failures are forgiven."""

from __future__ import annotations

import time
from typing import Any

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.models import Breach, Tally
from prefect_parallel_run.runs.fingerprint import listing_sha256
from prefect_parallel_run.runs.overrides import Adjustments
from prefect_parallel_run.runs.run_directory import RunDirectory, read_json
from prefect_parallel_run.runs.spec import StepSpec, failure_limits
from prefect_parallel_run.storage.objects import file_sha256, known, size_of


def may_be_reused(directory: RunDirectory, spec: StepSpec) -> bool:
    """True when the result is young enough and still there unaltered, and *spec* forgives what failed in it."""
    receipt = read_json(directory.receipt)
    if spec.reuse_for is not None:
        finished = float(receipt.get("finished") or directory.receipt.stat().st_mtime)  # earlier versions did not note it
        if time.time() - finished > spec.reuse_for:
            return False
    return breach_of(receipt, spec) is None and is_unaltered(receipt, spec)


def breach_of(receipt: dict[str, Any], spec: StepSpec, given: frozenset[str] = frozenset()) -> Breach | None:
    """Return the limit that a finished run exceeds, or None: one of *spec*, or what it was changed to in that run."""
    tally = Tally(
        planned=receipt["mini_batches"]["total"],
        failed=receipt["mini_batches"]["failed"],
        failed_items=receipt["items"]["failed"],
        all_scheduled=True,
    )
    config = Adjustments.of_receipt(receipt).without(given).of(spec.config)
    return failure_limits(config).first_breach(tally)


def is_unaltered(receipt: dict[str, Any], spec: StepSpec) -> bool:
    """True when the result is there, byte for byte, and where the script writes files itself, all of them as they were."""
    if spec.output is not None and (receipt["output_file"] is None or "output_listing" in receipt):
        try:
            listed = listing_sha256(spec.output)
        except InputError:  # it is gone
            return False
        if receipt.get("output_listing") != listed:
            return False
    if receipt["output_file"] is None:
        return True
    place = str(receipt["output_file"])
    if is_remote(place):  # an object with the same ETag is the same, and need not be read
        return known(place) == (int(receipt["bytes"]), str(receipt["version"]))
    return size_of(place) == receipt["bytes"] and file_sha256(place) == str(receipt["sha256"])
