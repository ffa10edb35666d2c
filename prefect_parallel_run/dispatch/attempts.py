"""Retry or give up: what a failed attempt means for its mini-batch. Pure."""

from __future__ import annotations

from prefect_parallel_run.models import Receipt


def should_retry(receipt: Receipt, run_max_try: int) -> bool:
    """Return whether a mini-batch is retried after a failed attempt.

    ``run_max_try`` counts attempts, including the first; a final receipt (NoRetry, changed input) rules out a retry.

    >>> from prefect_parallel_run.models import Outcome, Receipt
    >>> second = Receipt(7, 2, Outcome.RAISED, 10, 0, 10, 0, "", 0, 0, 0, 0, 0.0, 0.1)
    >>> should_retry(second, 3), should_retry(second, 2), should_retry(second._replace(final=True), 3)
    (True, False, False)
    """
    return receipt.attempt < run_max_try and not receipt.final
