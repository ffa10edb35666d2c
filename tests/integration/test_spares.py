"""A child that is killed is replaced by one that stands by; what befalls that one harms nobody."""

import os
import random
import signal
import sys
import threading

import psutil
import pytest

from prefect_parallel_run.models import Receipt
from prefect_parallel_run.node import child_startup
from prefect_parallel_run.node.child_startup import WAITING
from prefect_parallel_run.node.node import Node
from prefect_parallel_run.node.reaper import marked
from prefect_parallel_run.node.slot import SlotUnusableError, Work

from ..processes import command_line
from .conftest import wait_until


class ProcessLog:
    """What the processes of lives.py have noted."""

    def __init__(self, log):
        self.log = log

    @property
    def lines(self):
        return [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def pids(self, what):
        return [int(line[1]) for line in self.lines if line[0] == what]

    @property
    def homes(self):
        """Of the processes that called init(), in order: the start of their scratch folder's name."""
        return [line[2].rpartition(".")[0] for line in self.lines if line[0] == "init"]

    def place(self, *words):
        return next(number for number, line in enumerate(self.lines) if line[: len(words)] == [str(word) for word in words])

    def assert_once_each(self):
        """Every process has imported once, called init() at most once, and that before its first mini-batch."""
        for what in ("import", "init", "shutdown"):
            assert len(self.pids(what)) == len(set(self.pids(what))), what
        assert set(self.pids("run")) <= set(self.pids("init")) <= set(self.pids("import"))
        for pid in set(self.pids("run")):
            assert self.place("import", pid) < self.place("init", pid) < self.place("run", pid)


@pytest.fixture
def lives(bench):
    """At the end none of them is alive."""
    noted = ProcessLog(bench.log)
    yield noted
    bench.close()
    noted.assert_once_each()
    assert not [pid for pid in noted.pids("import") if psutil.pid_exists(pid)]
    assert not [path.name for path in bench.folder.iterdir() if path.name.startswith("node-0.")]


@pytest.fixture
def slot(bench, lives):
    """Makes slots that run lives.py."""
    return lambda *arguments, **changes: bench.slot("lives.py", "--log", str(bench.log), *arguments, **changes)


@pytest.fixture
def hangs_until(running_for, lives):
    """Lets mini-batch 3 have used 40 of its 60 s, and exceed them once *count* processes have noted *what*."""

    def install(what, count):
        running_for(lambda mini_batch: 0.0 if mini_batch != 3 else 40.0 if len(lives.pids(what)) < count else 1000.0)

    return install


def outcomes(receipts):
    return [receipt.outcome for receipt in receipts]


def spare_of(slot, lives):
    """Return the process id of the idle slot's spare, once the slot knows that it has imported the script."""
    startup = slot._standby._startup
    wait_until(lambda: startup.poll(0.01) or startup.stage == WAITING)
    assert startup.child.pid in lives.pids("imported")
    return startup.child.pid


def test_no_standby_child_without_a_lost_child(bench, files, lives, slot):
    """One process, one import."""
    bench.attempt(slot(), bench.works(files))
    assert len(lives.pids("import")) == 1


def test_standby_children_replace_from_the_second_crash(bench, files, lives, slot):
    """It has imported before the crash and calls init() after it; the first crash costs a full start."""
    made = slot("--crash", "2,5,8", "--with_spare", "5,8")
    receipts = bench.attempt(made, bench.works(files))
    assert outcomes(receipts) == ["died" if number in (2, 5, 8) else "succeeded" for number in range(10)]
    assert lives.homes == ["node-0.0.1", "node-0.0.2", "node-0.spare.1", "node-0.spare.2"]
    inits = lives.pids("init")
    for crash, replacement in ((5, inits[2]), (8, inits[3])):
        last = lives.place("last", inits[inits.index(replacement) - 1], crash)
        assert lives.place("imported", replacement) < last < lives.place("init", replacement)
    assert [int(line[2]) for line in lives.lines if line[0] == "run"] == list(range(10))
    assert {receipt.pid for receipt in receipts} == set(inits)


def test_an_unused_standby_child_calls_no_function(bench, files, lives, slot):
    """Neither init() nor shutdown()."""
    made = slot("--crash", "2", "--with_spare", "9")
    bench.attempt(made, bench.works(files))
    spare = spare_of(made, lives)
    assert made.shut_down() == ""
    made._standby.stop()
    assert not psutil.pid_exists(spare)
    assert spare not in lives.pids("init") + lives.pids("shutdown") + lives.pids("run")
    assert len(lives.pids("shutdown")) == 1


def test_a_standby_child_is_ready_at_a_timeout(bench, files, lives, slot, hangs_until):
    """Also for the first: it is started at half of the timeout."""
    hangs_until("imported", 2)
    receipts = bench.attempt(slot("--hang", "3"), bench.works(files))
    assert outcomes(receipts) == ["succeeded"] * 3 + ["timed_out"] + ["succeeded"] * 6
    assert lives.homes == ["node-0.0.1", "node-0.spare.1"]


def test_an_importing_standby_child_is_used(bench, files, lives, slot, hangs_until):
    """It is ahead of a child that would be started now."""
    hangs_until("import", 2)
    made = slot("--hang", "3", "--imports", "ok,gate,ok")
    receipts = []
    thread = threading.Thread(target=lambda: receipts.extend(bench.attempt(made, bench.works(files))))
    thread.start()
    try:
        wait_until(lambda: len(lives.pids("import")) > 1)
        wait_until(lambda: made._child is not None and made._child.pid == lives.pids("import")[1])
    finally:
        (bench.folder / f"{bench.log.name}.gate").touch()
        thread.join(300)
    assert outcomes(receipts).count("succeeded") == 9
    assert lives.homes == ["node-0.0.1", "node-0.spare.1"]


@pytest.mark.parametrize("how", ["raise", "scrawl"])
def test_a_standby_child_that_cannot_import_is_ignored(bench, files, lives, slot, how, hangs_until):
    """An ordinary child replaces it."""
    hangs_until("import", 2)
    made = slot("--hang", "3", "--imports", f"ok,{how},ok")
    receipts = bench.attempt(made, bench.works(files))
    assert outcomes(receipts) == ["succeeded"] * 3 + ["timed_out"] + ["succeeded"] * 6
    slow_to_fail = [["node-0.0.1", "node-0.0.3"]]
    if how == "scrawl":  # its init() may run before the invalid data is read
        slow_to_fail.append(["node-0.0.1", "node-0.spare.1", "node-0.0.3"])
    assert lives.homes in (["node-0.0.1", "node-0.0.2"], *slow_to_fail)


def test_an_ordinary_start_reports_the_failed_import(bench, files, lives, slot):
    """With its traceback, after the usual number of starts."""
    made = slot("--crash", "3,4", "--alone", "4", "--imports", "ok,ok,raise")
    with pytest.raises(SlotUnusableError) as caught:
        bench.attempt(made, bench.works(files))
    assert caught.value.failure.stage == "import"
    assert "only one import works" in caught.value.failure.error
    assert "lives.py" in caught.value.failure.traceback
    assert len(lives.pids("import")) == 2 + 1 + 3  # two that worked, the spare, three starts in a row


def test_quick_deaths_are_replaced_by_standby_children(bench, files, lives, slot):
    """One is started between two deaths, however close they are."""
    receipts = bench.attempt(slot("--crash", "0,1,2,3,4,5,6,7,8"), bench.works(files))
    assert outcomes(receipts) == ["died"] * 9 + ["succeeded"]
    assert lives.homes == ["node-0.0.1", "node-0.0.2", *(f"node-0.spare.{number}" for number in range(1, 9))]


def test_a_failing_init_in_a_standby_child_counts(bench, files, lives, slot):
    """As one of the three failed starts in a row."""
    made = slot("--crash", "3,4", "--with_spare", "4", "--inits", "ok,ok,raise")
    with pytest.raises(SlotUnusableError) as caught:
        bench.attempt(made, bench.works(files))
    assert caught.value.failure.stage == "init"
    assert len(lives.pids("init")) == 2 + 3
    assert lives.homes[2] == "node-0.spare.1"


def test_an_unused_standby_child_times_out(bench, files, lives, slot, starting_for):
    """After init_timeout; the next one is started after another death."""
    starting_for(lambda startup: startup.child.pid in lives.pids("import")[2:3])
    made = slot("--crash", "3,6", "--alone", "5", "--with_spare", "9", "--imports", "ok,ok,hang,ok")
    receipts = bench.attempt(made, bench.works(files))
    assert outcomes(receipts).count("succeeded") == 8
    assert lives.homes == ["node-0.0.1", "node-0.0.2", "node-0.0.3"]
    assert len(lives.pids("import")) == 5


def test_a_hanging_standby_import_costs_one_start(bench, files, lives, slot, hangs_until, starting_for):
    """The timeout counts from its own start."""
    hangs_until("import", 2)
    starting_for(lambda startup: startup is made._startup and startup.child.pid in lives.pids("import")[1:2])
    made = slot("--hang", "3", "--imports", "ok,hang,ok")
    receipts = bench.attempt(made, bench.works(files))
    assert outcomes(receipts).count("succeeded") == 9
    assert lives.homes == ["node-0.0.1", "node-0.0.3"]  # the spare was the second start


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_stopped_standby_child_is_skipped(bench, files, lives, slot, number, monkeypatch):
    """The slot starts an ordinary child, and the next crash finds a standby child again."""
    works = bench.works(files)
    made = slot("--crash", "1,2,5", "--with_spare", "5")
    assert outcomes(bench.attempt(made, works[:2])) == ["succeeded", "died"]
    assert outcomes(bench.attempt(made, works[:1])) == ["succeeded"]
    spare = spare_of(made, lives)
    psutil.Process(spare).send_signal(number)
    wait_until(lambda: psutil.Process(spare).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED))
    with monkeypatch.context() as patch:
        patch.setattr(child_startup, "_ANSWER_TIMEOUT", 1.0)
        receipts = bench.attempt(made, works[2:4], first=2)
    receipts += bench.attempt(made, works[4:], first=4)
    assert outcomes(receipts) == ["died"] + ["succeeded"] * 2 + ["died"] + ["succeeded"] * 4
    assert not psutil.pid_exists(spare)
    assert spare not in lives.pids("init")
    assert lives.homes == ["node-0.0.1", "node-0.0.2", "node-0.0.3", "node-0.spare.2"]


def test_no_standby_child_without_an_interpreter(bench, files, lives, slot, tmp_path):
    """The next death of a child reports it."""
    interpreter = tmp_path / "python"
    interpreter.symlink_to(sys.executable)
    works = bench.works(files)
    made = slot("--crash", "1,4", interpreter=str(interpreter))
    bench.attempt(made, works[:2])
    made.start()
    interpreter.unlink()
    assert outcomes(bench.attempt(made, works[2:4], first=2)) == ["succeeded"] * 2
    with pytest.raises(SlotUnusableError) as caught:
        bench.attempt(made, works[4:], first=4)
    assert caught.value.failure.stage == "spawn"
    assert not lives.pids("import")[2:]


@pytest.mark.parametrize("graceful", [True, False])
def test_closing_a_node_kills_its_standby_child(bench, files, lives, graceful):
    """While it stands by or still imports."""
    arguments = ("--log", str(bench.log), "--crash", "1", "--imports", "ok,ok,gate" if graceful else "ok")
    settings = bench.settings("lives.py", *arguments, token=f"closing-{os.getpid()}-{graceful}")
    node = Node(settings)
    works = [Work(i, 1, b"[%d,1,%b]\n" % (i, work)) for i, work in enumerate(bench.works(files))]
    try:
        assert len(node.run(1, works).receipts) == 10
        wait_until(lambda: len(lives.pids("import")) == 3)
        spare = lives.pids("import")[2]
    finally:
        node.close(graceful=graceful)
    assert not psutil.pid_exists(spare)
    assert spare not in lives.pids("init") + lives.pids("shutdown")
    assert len(lives.pids("shutdown")) == (1 if graceful else 0)
    assert not os.path.exists(node._scratch)
    wait_until(lambda: not list(marked(f"PREFECT_PARALLEL_RUN_MARKER={settings.token}.{os.getpid()}".encode())))


def test_slots_share_one_standby_child(bench, files, lives):
    """While processes are killed in any stage: one receipt per mini-batch, one import and one init() per process."""
    arguments = ("--log", str(bench.log), "--seconds", "0.05")
    settings = bench.settings("lives.py", *arguments, slots=3, most_slots=3, token=f"killed-{os.getpid()}")
    node = Node(settings)
    texts = bench.works(files, 1)
    receipts, lock, chance, over = [], threading.Lock(), random.Random(3), threading.Event()

    def lease(numbers):
        works = [Work(number, 1, b"[%d,1,%b]\n" % (number, texts[number])) for number in numbers]
        found = node.run(numbers[0], works).receipts
        with lock:
            receipts.extend(Receipt(*receipt) for receipt in found)

    def kill():
        while not over.wait(chance.uniform(0.0, 0.2)):
            ours = [child for child in psutil.Process().children() if "child/__main__.py" in command_line(child)]
            if ours:
                _kill(chance.choice(ours))

    killer = threading.Thread(target=kill)
    leases = [threading.Thread(target=lease, args=(range(start, start + 5),)) for start in range(0, 100, 5)]
    try:
        wait_until(lambda: len(node.slots._idle) == 3)
        killer.start()
        for thread in leases:
            thread.start()
        for thread in leases:
            thread.join(300)
    finally:
        over.set()
        killer.join(300)
        node.close(graceful=True)
    assert len({receipt.mini_batch for receipt in receipts}) == len(receipts)
    assert {receipt.outcome for receipt in receipts} <= {"succeeded", "died"}
    assert not os.path.exists(node._scratch)
    wait_until(lambda: not list(marked(f"PREFECT_PARALLEL_RUN_MARKER={settings.token}.{os.getpid()}".encode())))


def _kill(process):
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
