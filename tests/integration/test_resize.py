"""A node whose slots become more or fewer while leases go on, with real processes."""

import json
import os
import random
import threading
from collections import Counter

import psutil
import pytest

from prefect_parallel_run.models import Receipt
from prefect_parallel_run.node.node import Node
from prefect_parallel_run.node.slot import Work

from .conftest import wait_until


class Resizable:
    """A node, leases that run in threads of their own, and what its processes have noted."""

    def __init__(self, bench, files):
        self.bench, self.works = bench, bench.works(files)
        self.node, self.threads, self.results, self.ready, self.failed = None, {}, {}, [], []

    def open(self, script, *arguments, **changes):
        settings = self.bench.settings(script, *arguments, **{"token": f"resize-{os.getpid()}", "most_slots": 99, **changes})
        self.node = Node(settings)
        self.node.slots.on_report(self.report)
        return self.node

    def report(self, report):
        (self.ready if report.failure is None else self.failed).append(report.as_of)

    def lives(self, *arguments, **changes):
        return self.open("lives.py", "--log", str(self.bench.log), *arguments, **changes)

    def lease(self, number, start, stop):
        works = [Work(i, 1, b"[%d,1,%b]\n" % (i, self.works[i % 10])) for i in range(start, stop)]
        self.threads[number] = threading.Thread(target=lambda: self.results.update({number: self.node.run(number, works)}))
        self.threads[number].start()

    def home(self, number):
        self.threads[number].join(300)
        assert number in self.results
        result = self.results[number]
        return [Receipt(*receipt) for receipt in result.receipts], result

    def noted(self, what):
        """The numbers behind a word; of a call of run() both."""
        lines = self.bench.log.read_text().splitlines() if self.bench.log.exists() else []
        found = [line.split()[1:] for line in lines if line.split()[0] == what]
        return [tuple(map(int, rest)) if what == "run" else int(rest[0]) for rest in found]

    def alive(self):
        return [pid for pid in self.noted("import") if psutil.pid_exists(pid)]

    def close(self):
        if self.node is not None:
            self.node.close(graceful=False)
        for thread in self.threads.values():
            thread.join(300)


@pytest.fixture
def made(bench, files):
    resizable = Resizable(bench, files)
    yield resizable
    resizable.close()


def test_an_idle_node_grows_and_shrinks(made):
    """Retired processes have called shutdown(); new ones have unique names."""
    node = made.lives(slots=1)
    wait_until(lambda: len(made.ready) == 1)
    assert node.resize(3, 1) == (3, 1, 1, ())
    wait_until(lambda: made.ready == [0, 1, 1])
    assert node.resize(1, 2) == (1, 1, 2, ())
    wait_until(lambda: len(made.noted("shutdown")) == 2 and len(made.alive()) == 1)
    assert node.resize(2, 3) == (2, 1, 3, ())
    wait_until(lambda: made.ready == [0, 1, 1, 3])
    assert node.resize(9, 1) == (2, 2, 3, ())  # it was overtaken
    assert node.close(graceful=True) == []
    assert len(made.noted("shutdown")) == len(made.noted("init")) == 4
    lives = map(json.loads, (made.bench.run / "logs" / "node-0.processes.jsonl").read_text().splitlines())
    reasons = {life["process"]: life["reason"] for life in lives if life["event"] == "ended"}
    assert reasons == {
        f"node-0.{number}.1": reason for number, reason in enumerate(("shut_down", *["retired"] * 2, "shut_down"))
    }


def test_a_retired_slot_returns_the_rest_of_its_lease(made):
    """Nothing is killed or charged; the running mini-batch finishes."""
    gate = made.bench.folder / "open"
    node = made.open("gated.py", "--log", str(made.bench.log), "--gate", "6", "--open", str(gate), slots=2)
    wait_until(lambda: len(made.ready) == 2)
    made.lease(1, 6, 10)
    wait_until(lambda: (6, 1) in made.noted("run"))
    (busy,) = node.slots._busy
    place = next(place for place, slot in node.slots._active.items() if slot is busy)
    if place == 0:  # have it be the one that goes
        places = node.slots._active
        places[0], places[1] = places[1], places[0]
    assert node.resize(1, 1) == (1, 1, 1, (1,))
    assert node.recall(1, at_once=False).result(300) == 7
    made.lease(2, 0, 3)
    assert [receipt.outcome for receipt in made.home(2)[0]] == ["succeeded"] * 3
    child = busy._child.pid
    gate.touch()
    receipts, result = made.home(1)
    assert [(receipt.mini_batch, receipt.outcome) for receipt in receipts] == [(6, "succeeded")]
    assert (result.slots, result.as_of, result.failure) == (1, 1, None)
    wait_until(lambda: not psutil.pid_exists(child))
    assert node.close(graceful=True) == []


def test_a_starting_slot_retires_without_waiting(made):
    """It never had a mini-batch."""
    node = made.lives("--inits", "ok,hang", slots=1)
    wait_until(lambda: len(made.ready) == 1)
    node.resize(3, 1)
    wait_until(lambda: len(made.noted("init")) == 3)
    assert node.resize(1, 2) == (1, 1, 2, ())
    wait_until(lambda: len(made.alive()) == 1)
    made.lease(1, 0, 3)
    assert len(made.home(1)[0]) == 3
    assert node.close(graceful=True) == []
    assert len(made.noted("shutdown")) == 1


def test_a_failed_slot_is_replaced(made):
    """The requested number of processes is restored."""
    node = made.lives("--imports", "ok,raise,ok", slots=2)
    wait_until(lambda: node.slots.count() == (1, 0) and len(made.ready) == 1)
    assert node.resize(2, 1) == (2, 1, 1, ())
    wait_until(lambda: len(made.ready) == 2)
    assert node.slots.next_failure().stage == "import"


def test_slots_are_limited_by_the_mini_batches(made):
    """At least one, for any requested number."""
    node = made.lives(slots=1, most_slots=2)
    assert node.resize(50, 1).slots == 2
    assert node.resize(0, 2).slots == 1


def test_a_failed_node_is_not_revived(made):
    """It has reported the failure; other nodes may work."""
    node = made.lives("--imports", "raise", slots=1)
    wait_until(lambda: node.slots.count() == (0, 0))
    wait_until(lambda: made.failed == [0])
    assert node.resize(3, 1) == (0, 0, 1, ())
    assert node.run(1, [Work(0, 1, b"")]).slots == 0


def test_errors_of_retired_slots_are_reported(made):
    """Like those of the others."""
    script = made.bench.folder / "bad_end.py"
    script.write_text("def run(mini_batch):\n    return []\n\n\ndef shutdown():\n    raise OSError('no more')\n")
    node = made.open(str(script), slots=2)
    wait_until(lambda: len(made.ready) == 2)
    node.resize(1, 1)
    wait_until(lambda: len(node.slots.all) == 1)
    problems = node.close(graceful=True)
    assert len(problems) == 2
    assert all("no more" in problem for problem in problems)


def test_leases_survive_resizes(made):
    """Seeded random leases and sizes: a mini-batch has one receipt or has not run, and no process dies."""
    chance = random.Random(5)
    node = made.lives("--seconds", "0.002", slots=2)
    for number in range(1, 41):
        made.lease(number, 10 * number, 10 * number + 10)
        if number % 4 == 0:
            node.resize(chance.randrange(1, 5), number)
    counts = Counter()
    for number in made.threads:
        receipts, result = made.home(number)
        assert [receipt.mini_batch for receipt in receipts] == list(range(10 * number, 10 * number + len(receipts)))
        assert {receipt.outcome for receipt in receipts} <= {"succeeded"}
        counts.update(receipt.mini_batch for receipt in receipts)
        assert result.failure is None
    assert set(counts.values()) <= {1}
    assert sorted(counts) == sorted(index for _, index in made.noted("run"))
    assert node.close(graceful=True) == []
    wait_until(lambda: not made.alive())
