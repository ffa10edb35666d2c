"""The ledger records committed results: all of a lease or nothing, and every count from its rows."""

import sqlite3

import pytest

from prefect_parallel_run.models import Receipt
from prefect_parallel_run.runs.failures import causes, failed_mini_batches, first_failure
from prefect_parallel_run.runs.ledger import Ledger, Place


def receipt(index, attempt=1, outcome="succeeded", items=10, **fields):
    good = items if outcome == "succeeded" else 0
    given = {
        "mini_batch": index,
        "attempt": attempt,
        "outcome": outcome,
        "items": items,
        "succeeded": good,
        "failed": items - good,
        "rows": good,
        "part": "p0.part" if good else "",
        "offset": index * 100,
        "header": 0,
        "length": 100,
        "crc": 77,
        "started": 1000.0 + index,
        "seconds": 0.5,
        "node": "node-0",
        "pid": 7,
    }
    if outcome != "succeeded":
        given |= {"error_type": "ValueError", "error": f"bad {index}\nmore", "fingerprint": "f1", "traceback": "tb"}
    return Receipt(**{**given, **fields})


@pytest.fixture
def ledger(tmp_path):
    with Ledger.create(tmp_path / "ledger.sqlite", [10] * 6) as made:
        yield made


def test_in_a_new_ledger_every_mini_batch_is_planned(ledger):
    """There is one row per mini-batch."""
    remainder = ledger.pending_work()
    assert remainder.pending == ((0, 6),)
    assert remainder.waiting == ()
    assert (remainder.tally.planned, remainder.tally.items, remainder.tally.finished) == (6, 60, 0)
    assert not remainder.tally.all_scheduled


def test_pending_work_is_what_lacks_a_final_outcome(ledger):
    """It has ranges of unstarted mini-batches, and waiting ones with their next attempt."""
    ledger.commit(
        [(receipt(1), "succeeded"), (receipt(3, outcome="raised"), "waiting"), (receipt(5, outcome="died"), "failed")]
    )
    remainder = ledger.pending_work()
    assert remainder.pending == ((0, 1), (2, 3), (4, 5))
    assert remainder.waiting == ((3, 2, 10, 0),)
    tally = remainder.tally
    assert (tally.succeeded, tally.failed, tally.waiting, tally.finished) == (1, 1, 1, 2)
    assert (tally.succeeded_items, tally.failed_items, tally.waiting_items, tally.rows) == (10, 10, 10, 10)


def test_a_success_after_a_failure_replaces_it_in_the_counts(ledger):
    """The failed attempt stays on record."""
    ledger.commit([(receipt(0, outcome="raised"), "waiting")])
    ledger.commit([(receipt(0, attempt=2), "succeeded")])
    tally = ledger.tally()
    assert (tally.succeeded, tally.failed, tally.waiting, tally.failed_items) == (1, 0, 0, 0)
    assert len(list(ledger._connection.execute("SELECT * FROM attempts"))) == 2


def test_a_lease_is_committed_whole_or_not_at_all(ledger):
    """An attempt that is already on record rejects the whole lease, so nothing is counted twice."""
    ledger.commit([(receipt(0), "succeeded")])
    with pytest.raises(sqlite3.IntegrityError):
        ledger.commit([(receipt(1), "succeeded"), (receipt(0), "succeeded")])
    assert ledger.tally().succeeded == 1
    assert ledger.pending_work().pending == ((1, 6),)


def test_places_are_in_mini_batch_order_for_any_commit_order(ledger):
    """Only succeeded mini-batches have one."""
    ledger.commit([(receipt(4), "succeeded"), (receipt(0), "succeeded"), (receipt(2, outcome="raised"), "failed")])
    assert list(ledger.places()) == [Place(0, "p0.part", 0, 0, 100, 77, 10), Place(4, "p0.part", 400, 0, 100, 77, 10)]


def test_a_ledger_grows_with_its_plan(tmp_path):
    """New mini-batches are appended; existing rows stay."""
    with Ledger.create(tmp_path / "l.sqlite", ()) as ledger:
        assert (ledger.planned(), ledger.is_empty(), ledger.tally().planned) == (0, True, 0)
        ledger.extend([10, 10])
        ledger.commit([(receipt(1), "succeeded")])
        ledger.extend([5])
        assert (ledger.planned(), ledger.is_empty()) == (3, False)
        left = ledger.pending_work(is_growing=True)
        assert left.pending == ((0, 1), (2, 3))
        assert (left.tally.items, left.tally.succeeded, left.tally.is_growing) == (25, 1, True)


def test_failures_are_grouped_by_cause(ledger):
    """The most frequent cause is first, each with its first example."""
    ledger.commit([(receipt(i, outcome="raised"), "failed") for i in (3, 1)])
    ledger.commit([(receipt(2, outcome="died", fingerprint="f2", error_type="SIGKILL", error="killed"), "failed")])
    found = causes(ledger)
    assert [(cause.fingerprint, cause.tries, cause.mini_batches, cause.first_mini_batch) for cause in found] == [
        ("f1", 2, 2, 1),
        ("f2", 1, 1, 2),
    ]
    assert found[0].error == "bad 1\nmore"
    assert first_failure(ledger) == "mini-batch 1: ValueError: bad 1"


def isolate(ledger):
    """Of 10 items of mini-batch 1, item 2 is found guilty, after its only try."""
    ledger.commit([(receipt(1, outcome="raised"), "isolating")])
    for start, stop, is_bad in ((0, 5, True), (5, 10, False), (0, 2, False), (2, 5, True), (2, 3, True), (3, 5, False)):
        outcome, good = ("raised", 0) if is_bad else ("succeeded", stop - start)
        piece = receipt(1, outcome=outcome, items=stop - start, succeeded=good, failed=stop - start - good, rows=good)
        state = "succeeded" if start == 3 else "isolating"
        ledger.commit_piece(piece, (start, stop), int(is_bad and stop - start == 1), state)


def test_attempts_at_pieces_count_and_name_the_failing_item(ledger):
    """This item failed four times, and only it failed finally."""
    isolate(ledger)
    ledger.commit([(receipt(number, outcome="died", fingerprint="f2"), "failed") for number in (2, 3)])
    first, second = causes(ledger)
    assert (first.fingerprint, first.tries, first.mini_batches) == ("f1", 4, 1)
    assert (first.failed_items, first.guilty, first.error) == (1, (1, 2, 3), "bad 1\nmore")
    assert (second.tries, second.failed_items, second.guilty) == (2, 20, None)
    found = [(one.mini_batch, one.attempts, one.items) for one in failed_mini_batches(ledger)]
    assert found == [(1, 4, 1), (2, 1, 10), (3, 1, 10)]


def test_an_attempt_that_is_repeated_is_not_the_first_failure(ledger):
    """If items of another mini-batch have failed: a limit was exceeded by these. Otherwise it is all that can be said."""
    ledger.commit([(receipt(1, outcome="raised"), "waiting")])
    assert first_failure(ledger) == "mini-batch 1: ValueError: bad 1"
    ledger.commit([(receipt(4, succeeded=1, failed=9, rows=1), "succeeded")])
    assert first_failure(ledger) == "mini-batch 4: run() returned 1 row for 10 items"
    ledger.commit([(receipt(2, outcome="raised"), "failed")])
    assert first_failure(ledger) == "mini-batch 2: ValueError: bad 2"


def test_missing_rows_count_as_a_failure(ledger):
    """Without a failed attempt they are the first failure."""
    assert first_failure(ledger) == ""
    ledger.commit([(receipt(2, succeeded=1, failed=9, rows=1), "succeeded"), (receipt(1), "succeeded")])
    assert first_failure(ledger) == "mini-batch 2: run() returned 1 row for 10 items"


def test_mini_batches_with_too_few_rows_are_listed_as_failed(ledger):
    """They succeeded, but some of their items did not."""
    ledger.commit([(receipt(0, succeeded=7, failed=3, rows=7), "succeeded"), (receipt(1, outcome="raised"), "failed")])
    found = list(failed_mini_batches(ledger))
    assert [(one.mini_batch, one.state, one.failed) for one in found] == [(0, "succeeded", 3), (1, "failed", 10)]


def test_committed_rows_survive_reopening(tmp_path):
    """They also survive when the ledger was not closed."""
    first = Ledger.create(tmp_path / "l.sqlite", [1, 1])
    first.commit([(receipt(0, items=1), "succeeded")])
    first.record(status="running", drives="1")
    with Ledger(tmp_path / "l.sqlite") as second:
        assert second.tally().succeeded == 1
        assert second.metadata() == {"status": "running", "drives": "1"}
    first.close()


def test_the_tables_match_the_contract(ledger):
    """Users query them (CONTRACT 9)."""
    columns = {
        table: [row[1] for row in ledger._connection.execute(f"PRAGMA table_info({table})")]
        for table in ("mini_batches", "attempts")
    }
    assert columns["mini_batches"][:7] == ["mini_batch", "state", "attempts", "items", "succeeded", "failed", "rows"]
    assert set(columns["attempts"]) >= {
        *("mini_batch", "attempt", "outcome", "node", "pid", "started", "seconds", "error_type", "error", "fingerprint")
    }
