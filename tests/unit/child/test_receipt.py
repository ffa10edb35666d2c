"""Receipts are the same values in the child, on the channel, in a lease's result and in the flow process."""

import json
import pickle

import pytest

from prefect_parallel_run.child.receipt import Outcome, Receipt, success
from prefect_parallel_run.node.node import LeaseResult

ROWS = (12, "node-0.0.part", 4096, 4, 300, 7)
GOOD = Receipt(3, 1, Outcome.SUCCEEDED, 10, 10, 0, *ROWS, started=5.0, seconds=0.5, node="node-0", pid=11)
BAD = Receipt.of_failure(
    *(3, 2, Outcome.RAISED),
    items=10,
    started=5.0,
    seconds=0.5,
    node="node-0",
    pid=11,
    error_type="ValueError",
    error="é",
    traceback="Traceback",
    fingerprint="abc",
    final=True,
)


def sent(answer):
    """An answer after its way through the pipe."""
    return json.loads(json.dumps(answer))


def test_an_outcome_is_its_text_everywhere():
    """In messages, JSON, sets and comparisons, whatever the version of Python."""
    assert (str(Outcome.DIED), f"{Outcome.DIED}", "%s" % Outcome.DIED) == ("died", "died", "died")  # noqa: UP031  all ways
    assert json.dumps({"outcome": Outcome.TIMED_OUT}) == '{"outcome": "timed_out"}'
    assert Outcome.LOST == "lost"
    assert "lost" in {Outcome.LOST}
    assert pickle.loads(pickle.dumps(Outcome.LOST)) is Outcome.LOST


def test_an_answer_becomes_the_receipt_with_its_process():
    """A success travels without the fields that have defaults; the slot knows node and process better than the child."""
    answer = sent(success(3, 1, 10, ROWS, 5.0, 0.5))
    assert len(answer) < len(Receipt._fields)
    receipt = Receipt.of_answer(answer, "node-0", 11)
    assert receipt == GOOD
    assert receipt.outcome is Outcome.SUCCEEDED
    assert Receipt.of_answer(sent(BAD._replace(node="", pid=0)), "node-0", 11) == BAD


def test_fewer_rows_than_items_leave_failed_items():
    """More rows than items are allowed."""
    assert Receipt.of_answer(success(3, 1, 20, ROWS, 5.0, 0.5), "", 0)[4:7] == (12, 8, 12)
    assert Receipt.of_answer(success(3, 1, 1, ROWS, 5.0, 0.5), "", 0)[4:7] == (1, 0, 12)


@pytest.mark.parametrize("answer", [[], [1], list(BAD)[:-1], [3, 1, "vanished", *GOOD[3:14]], [3, 1, [], *GOOD[3:14]]])
def test_anything_else_is_not_a_receipt(answer):
    """A script may have written to the pipe."""
    with pytest.raises((ValueError, LookupError, TypeError)):
        Receipt.of_answer(answer, "node-0", 11)


def test_receipts_of_a_lease_survive_pickling():
    """As plain tuples, which cost a third of the time."""
    result = LeaseResult([GOOD, BAD], 2, None, 4)
    again = pickle.loads(pickle.dumps(result))
    assert again == result
    assert [type(receipt) for receipt in again.receipts] == [Receipt, Receipt]
