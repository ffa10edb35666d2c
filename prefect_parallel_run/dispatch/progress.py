"""Counts the mini-batches and items of a run by outcome. Pure."""

from __future__ import annotations

from prefect_parallel_run.dispatch.bisection import BisectionResult
from prefect_parallel_run.models import Outcome, PendingWork, Receipt, Tally


class Progress:
    """Counts mini-batches and items by outcome."""

    def __init__(self, pending_work: PendingWork) -> None:
        tally = pending_work.tally
        self.planned, self.items, self.rows = tally.planned, tally.items, tally.rows
        self.succeeded, self.succeeded_items = tally.succeeded, tally.succeeded_items
        self.failed, self.failed_items = tally.failed, tally.failed_items
        self.is_growing = tally.is_growing
        self._waiting = {index: items for index, _, items, _ in pending_work.waiting}  # undecided items, by mini-batch
        self._waiting.update((bisection.mini_batch, bisection.undecided) for bisection in pending_work.isolating)
        self._waiting_items = sum(self._waiting.values())

    def tally(self, *, has_new: bool) -> Tally:
        """Return the counts; *has_new*: a mini-batch has never been leased."""
        return Tally(
            planned=self.planned,
            succeeded=self.succeeded,
            failed=self.failed,
            waiting=len(self._waiting),
            items=self.items,
            succeeded_items=self.succeeded_items,
            failed_items=self.failed_items,
            waiting_items=self._waiting_items,
            rows=self.rows,
            all_scheduled=not has_new and not self.is_growing,
            is_growing=self.is_growing,
        )

    def record(self, receipt: Receipt, state: str) -> None:
        """Count the last attempt of a mini-batch, which put it into *state*."""
        if self._waiting:
            self._waiting_items -= self._waiting.pop(receipt.mini_batch, 0)
        if state == "succeeded":
            self.succeeded += 1
            self.succeeded_items += receipt.succeeded
            self.failed_items += receipt.failed
            self.rows += receipt.rows
        elif state == "failed":
            self.failed += 1
            self.failed_items += receipt.items
        else:
            self._waiting[receipt.mini_batch] = receipt.items
            self._waiting_items += receipt.items

    def record_piece(self, receipt: Receipt, result: BisectionResult) -> None:
        """Count the outcome of a piece of a mini-batch."""
        index = receipt.mini_batch
        self._waiting[index] -= result.decided
        self._waiting_items -= result.decided
        self.failed_items += result.failed
        if receipt.outcome == Outcome.SUCCEEDED:
            self.succeeded_items += receipt.succeeded
            self.rows += receipt.rows
        if result.state != "isolating":
            del self._waiting[index]
            self.succeeded += result.state == "succeeded"
            self.failed += result.state == "failed"
