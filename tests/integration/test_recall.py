"""Asking a lease for what it has not begun: every mini-batch is run, or given back, and never both."""

import os
import random
import threading
import time
from unittest.mock import Mock

import pytest

from prefect_parallel_run.node.node import NOT_BEGUN, Node
from prefect_parallel_run.node.slot import RecallRequest, Work
from prefect_parallel_run.node.slot_pool import SlotPool

from .conftest import wait_until


class AtWork:
    """A slot that runs a lease in a thread of its own."""

    def __init__(self, bench, slot, works):
        self.recall, self.receipts = RecallRequest(), None
        self._thread = threading.Thread(target=self._run, args=(bench, slot, works))
        self._thread.start()

    def _run(self, bench, slot, works):
        self.receipts = bench.attempt(slot, works, recall=self.recall)
        self.recall.answer(len(works))  # as the node does

    def end(self):
        self._thread.join(300)
        assert not self._thread.is_alive()
        return [(receipt.mini_batch, receipt.outcome) for receipt in self.receipts]


def gated(bench, *more, gate=2):
    return bench.slot("gated.py", "--log", str(bench.log), "--gate", str(gate), "--open", str(bench.folder / "open"), *more)


def open_gate(bench):
    (bench.folder / "open").touch()


def noted(bench, line):
    return bench.log.exists() and line in bench.log.read_text().splitlines()


def at_the_gate(bench, files):
    """Ten mini-batches, a slot, and its work on them, which has come to the third."""
    works, slot = bench.works(files), gated(bench)
    work = AtWork(bench, slot, works)
    wait_until(lambda: noted(bench, "run 2 1"))
    return works, slot, work


def test_unstarted_mini_batches_are_returned_immediately(bench, files):
    """Not after the running one, which counts; the slot is ready for the next lease."""
    works, slot, work = at_the_gate(bench, files)
    assert work.recall.request(at_once=False).result(300) == 3
    open_gate(bench)
    assert work.end() == [(0, "succeeded"), (1, "succeeded"), (2, "succeeded")]
    assert [receipt.outcome for receipt in bench.attempt(slot, works[3:], first=3)] == ["succeeded"] * 7
    assert sorted(bench.invocations()) == [f"run {number} 1" for number in range(10)]


def test_a_recall_ends_the_wait_for_a_quiet_child(bench, files, monkeypatch):
    """However long the wait is: the slot polls a child in a long run() rarely. A later request finds the child closed."""
    monkeypatch.setattr("prefect_parallel_run.node.slot._QUIET_POLL_INTERVAL", 1000.0)
    _, slot, work = at_the_gate(bench, files)
    assert work.recall.request(at_once=False).result(300) == 3
    open_gate(bench)
    assert work.end() == [(0, "succeeded"), (1, "succeeded"), (2, "succeeded")]
    slot.shut_down()
    assert work.recall.request(at_once=True).result(0) == 3


def test_all_is_returned_while_the_child_starts(bench, files):
    """A slow import delays only its own process."""
    works = bench.works(files)
    slot = gated(bench, "--import")
    work = AtWork(bench, slot, works)
    wait_until(lambda: bench.log.exists() and "importing" in bench.log.read_text())
    assert work.recall.request(at_once=False).result(300) == 0
    open_gate(bench)
    assert work.end() == []
    assert bench.invocations() == []
    assert len(bench.attempt(slot, works)) == 10


def test_an_unneeded_mini_batch_is_stopped(bench, files):
    """Finished ones are returned, the running one is not charged, and the slot starts a new child."""
    works, slot, work = at_the_gate(bench, files)
    work.recall.request(at_once=True)
    assert work.end() == [(0, "succeeded"), (1, "succeeded")]
    open_gate(bench)
    assert len(bench.attempt(slot, works)) == 10
    assert bench.log.read_text().count("run 2 1") == 2


def test_a_death_after_a_recall_costs_one_mini_batch(bench, files):
    """Returned mini-batches are not run by the replacement."""
    _, slot, work = at_the_gate(bench, files)
    assert work.recall.request(at_once=False).result(300) == 3
    os.kill(slot._child.pid, 9)
    assert work.end() == [(0, "succeeded"), (1, "succeeded"), (2, "died")]
    assert len(bench.invocations()) == 3


@pytest.mark.parametrize("seconds", ["0", "0.0012", "0.004"])
def test_a_recall_is_consistent_at_any_moment(bench, files, seconds):
    """Mini-batches with a receipt ran once and precede the returned ones; nothing else ran."""
    chance = random.Random(seconds)
    works = bench.works(files) * (20 if seconds == "0" else 4)
    slot = bench.slot("slow.py", "--log", str(bench.log), "--sleep", seconds)
    slot.start()
    for _ in range(25):
        before = len(bench.invocations())
        work = AtWork(bench, slot, works)
        time.sleep(chance.random() * 0.03)  # any moment will do
        first = work.recall.request(at_once=False).result(300) if chance.random() < 0.9 else len(works)
        done = work.end()
        assert [index for index, _ in done] == list(range(len(done)))
        assert len(done) == first or len(done) == first - 1  # one that was about to begin may have been left undone
        assert len(bench.invocations()) - before == len(done)
        assert {outcome for _, outcome in done} <= {"succeeded"}
    assert slot._started == 1


def test_a_waiting_lease_returns_all(bench, files):
    """Its slot is busy with an earlier lease."""
    works = [Work(i, 1, b"[%d,1,%b]\n" % (i, work)) for i, work in enumerate(bench.works(files))]
    script = ("gated.py", "--log", str(bench.log), "--gate", "0", "--open", str(bench.folder / "open"))
    node = Node(bench.settings(*script))
    results = {}
    threads = [
        threading.Thread(target=lambda number=number, part=part: results.update({number: node.run(number, part)}))
        for number, part in enumerate((works[:5], works[5:]))
    ]
    try:
        threads[0].start()
        wait_until(lambda: noted(bench, "run 0 1"))
        threads[1].start()
        wait_until(lambda: 1 in node._recalls)
        assert node.recall(1, at_once=False).result(300) == 5
        threads[1].join(300)
        open_gate(bench)
        threads[0].join(300)
        assert (len(results[0].receipts), results[1].receipts) == (5, [])
    finally:
        open_gate(bench)
        node.close(graceful=False)


def test_an_unstarted_lease_is_returned_completely(bench, files):
    """It waits for a busy thread and does not run later. A finished lease returns nothing."""
    works = [Work(i, 1, b"[%d,1,%b]\n" % (i, work)) for i, work in enumerate(bench.works(files))]
    node = Node(bench.settings("counts.py", "--log", str(bench.log)))
    try:
        assert node.recall(2, at_once=False).result(0) == NOT_BEGUN
        assert len(node.run(1, works[:5]).receipts) == 5
        assert node.recall(1, at_once=False) is None
        assert node.run(2, works[5:]).receipts == []
        assert len(node.run(3, works[5:]).receipts) == 5
    finally:
        node.close(graceful=False)


def test_leases_get_slots_in_order_of_arrival():
    """A lost node is judged by that order: the first leases were running."""
    pool, served = SlotPool(lambda index, number: Mock(), 1), []

    def wait(number):
        slot = pool.acquire(RecallRequest())
        served.append(number)
        pool.release(slot)

    for _ in range(30):
        served.clear()
        slot = pool.acquire(RecallRequest())
        threads = []
        for number in range(4):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            wait_until(lambda number=number: len(pool._waiting) == number + 1)
        pool.release(slot)
        for thread in threads:
            thread.join(300)
        assert served == [0, 1, 2, 3]
