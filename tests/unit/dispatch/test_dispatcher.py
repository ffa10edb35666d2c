"""The dispatcher between RunState, which decides, and the cluster, which works."""

import queue
from types import SimpleNamespace

import pytest

from prefect_parallel_run.dispatch.dispatcher import Dispatcher, DispatchInputs
from prefect_parallel_run.dispatch.events import Commit, CommitPiece, NodeOpened, Tick
from prefect_parallel_run.dispatch.node_setup import NodeSpec
from prefect_parallel_run.errors import RowsDifferError
from prefect_parallel_run.models import Receipt

SETTINGS = SimpleNamespace(token="t", run=SimpleNamespace(directory="/run"), node=SimpleNamespace(is_kept=False))


def ignore(event):
    """Receive events of the run."""


def dispatcher(**run):
    cluster = SimpleNamespace(client=None, prepared=0, discard=None)
    run = DispatchInputs(**{"plan": None, "ledger": None, "state": SimpleNamespace(next_due=None), **run})
    return Dispatcher(cluster, NodeSpec(settings=SETTINGS, at_most=1), run, ignore, None)


def test_events_behind_the_one_that_ends_the_run_stay_queued():
    """Events stay in the queue until they are handled, so that the end of the run can drain them."""
    dispatcher_ = dispatcher()
    for node in ("a", "b", "c"):
        dispatcher_._events.put(NodeOpened(node, 1))
    events = dispatcher_._wait_for_events()
    assert next(events) == NodeOpened("a", 1)
    events.close()
    assert [dispatcher_._events.get_nowait() for _ in range(2)] == [NodeOpened("b", 1), NodeOpened("c", 1)]
    with pytest.raises(queue.Empty):
        dispatcher_._events.get_nowait()
    assert list(dispatcher_._wait_for_events()) == [Tick()]


class Noted:
    """A ledger that records the calls it receives."""

    def __init__(self, notes):
        self.notes = notes

    def __getattr__(self, name):
        return lambda *arguments: self.notes.append(name)


def test_rows_are_checked_after_they_are_committed():
    """Including rows of pieces, but not of failed attempts. An error of the check ends the run."""
    notes, checked = [], []

    def check(receipts):
        checked.append(([receipt.mini_batch for receipt in receipts], list(notes)))
        if receipts[0].mini_batch == 3:
            raise RowsDifferError("", "column 'a'", 3)

    dispatcher_ = dispatcher(ledger=Noted(notes), check_rows=check)
    dispatcher_._transport = SimpleNamespace(dated=lambda receipt: receipt)
    receipt = Receipt(0, 1, "succeeded", 2, 2, 0, 2, "p.part", 0, 8, 80, 0, 1.0, 0.1)
    failed = Receipt.of_failure(1, 1, "raised", items=2, started=1.0, seconds=0.1)
    dispatcher_._carry_out([Commit([(receipt, "succeeded"), (failed, "waiting")]), Commit([(failed, "waiting")])])
    dispatcher_._carry_out([CommitPiece(receipt._replace(mini_batch=2), (0, 1), 0, "isolating")])
    assert checked == [([0], ["commit"]), ([2], ["commit", "commit", "commit_piece"])]
    with pytest.raises(RowsDifferError):
        dispatcher_._carry_out([Commit([(receipt._replace(mini_batch=3), "succeeded")])])
