"""What the dispatcher does by itself, between the state that decides and the cluster that works."""

import queue
from types import SimpleNamespace

import pytest

from prefect_parallel_run.dispatch.dispatcher import Dispatcher
from prefect_parallel_run.dispatch.events import Commit, CommitPiece, NodeJoined, Tick
from prefect_parallel_run.errors import RowsDifferError
from prefect_parallel_run.models import Receipt

SETTINGS = SimpleNamespace(token="t", run_directory="/run", is_kept=False)


class ControlListener:
    """An observer that only listens, and a state that never waits for a moment."""

    next_due = None


def dispatcher():
    return Dispatcher(None, SETTINGS, None, None, ControlListener(), ControlListener(), None, None, wanted=1)


def test_what_comes_home_with_the_one_that_ends_the_run_is_not_lost():
    """It stays in the queue until its turn comes: whoever stops there finds it."""
    made = dispatcher()
    for node in ("a", "b", "c"):
        made._events.put(NodeJoined(node, 1))
    events = made._wait()
    assert next(events) == NodeJoined("a", 1)
    events.close()
    assert [made._events.get_nowait() for _ in range(2)] == [NodeJoined("b", 1), NodeJoined("c", 1)]
    with pytest.raises(queue.Empty):
        made._events.get_nowait()
    assert list(made._wait()) == [Tick()]


class Noted:
    """A ledger and an observer that note what they are told."""

    def __init__(self, notes):
        self.notes = notes

    def __getattr__(self, name):
        return lambda *arguments: self.notes.append(name)


def test_rows_are_checked_once_they_are_committed():
    """Those of pieces too; of tries that failed there are none. What the check raises ends the run."""
    notes, checked = [], []

    def check(receipts):
        checked.append(([receipt.mini_batch for receipt in receipts], list(notes)))
        if receipts[0].mini_batch == 3:
            raise RowsDifferError("", "column 'a'", 3)

    made = Dispatcher(None, SETTINGS, None, Noted(notes), ControlListener(), Noted([]), None, None, wanted=1, check_rows=check)
    made._traffic = SimpleNamespace(dated=lambda receipt: receipt)
    receipt = Receipt(0, 1, "succeeded", 2, 2, 0, 2, "p.part", 0, 8, 80, 0, 1.0, 0.1)
    failed = Receipt.of_failure(1, 1, "raised", items=2, started=1.0, seconds=0.1)
    made._follow([Commit([(receipt, "succeeded"), (failed, "waiting")]), Commit([(failed, "waiting")])])
    made._follow([CommitPiece(receipt._replace(mini_batch=2), (0, 1), 0, "isolating")])
    assert checked == [([0], ["commit"]), ([2], ["commit", "commit", "commit_piece"])]
    with pytest.raises(RowsDifferError):
        made._follow([Commit([(receipt._replace(mini_batch=3), "succeeded")])])
