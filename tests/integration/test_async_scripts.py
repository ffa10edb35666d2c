"""Scripts with async def: one event loop per child, stopped like any other script."""

import os
import re
from pathlib import Path

import pytest

from prefect_parallel_run._threads import begin
from prefect_parallel_run.node import child_process
from prefect_parallel_run.node.child_startup import IN_INIT, ChildFactory
from prefect_parallel_run.node.node_log import ProcessLog
from prefect_parallel_run.node.slot import SlotUnusableError

from ..services import service
from .conftest import seconds_since, wait_until

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "async.md").read_text()


def printed(bench):
    return "".join(path.read_text() for path in sorted((bench.run / "logs").glob("*.stdout.txt")))


def test_a_child_has_one_event_loop(bench, files):
    """In init(), every run() and shutdown(); tasks of init() continue with every mini-batch, and are cancelled at the end."""
    slot = bench.slot("async_steps.py")
    receipts = bench.attempt(slot, bench.works(files)[:3])
    assert bench.rows(receipts) == ["1 heart"] * 30
    assert slot.shut_down() == ""
    assert printed(bench) == "shutdown on 1 loop\ncancelled heart\n"


def test_a_step_from_functions_may_be_async(bench, files):
    slot = bench.slot("async_steps.py", function="step")
    assert bench.rows(bench.attempt(slot, bench.works(files)[:1])) == ["1 heart"] * 10


OUTCOMES = {
    "hang": ("timed_out", "InvocationTimeout", "run_invocation_timeout = 5 s", 2),
    "gather": ("raised", "ValueError", "fails at once", 1),
    "exit": ("raised", "SystemExit", "enough", 1),
    "stubborn": ("raised", "TaskNotCancelled", "poll, stubborn() in async_steps.py, line", 2),
    "not_awaited": ("wrong_type", "WrongType", "returned a list with a coroutine that was not awaited (await", 1),
    "exceptions": ("wrong_type", "ExceptionReturned", "row 1 that run() returned is a ValueError: fails", 1),
    "directive": ("wrong_type", "ExceptionReturned", "row 0 that run() returned is a RetryLater", 1),
    "tasks": ("wrong_type", "WrongType", "returned a list with a Task that was not awaited (await", 1),
}


@pytest.mark.parametrize("how", OUTCOMES)
def test_a_failed_coroutine_costs_no_other_mini_batch(bench, files, how, running_for):
    """The loop is still usable, and no task of the failed attempt is left on it."""
    running_for(seconds_since(lambda: how == "hang", 1))
    slot = bench.slot("async_steps.py", "--how", how, "--poison", "1", run_invocation_timeout=5.0)
    receipts = bench.attempt(slot, bench.works(files)[:3])
    outcome, error_type, words, processes = OUTCOMES[how]
    assert [receipt.outcome for receipt in receipts] == ["succeeded", outcome, "succeeded"]
    assert (receipts[1].error_type, words in receipts[1].error) == (error_type, True), receipts[1].error
    assert bench.rows(receipts) == ["1 heart"] * 20
    assert len({receipt.pid for receipt in receipts}) == processes
    assert ("cancelled left over" in printed(bench)) == (how == "gather")


def test_a_timeout_shows_the_line_of_the_coroutine(bench, files, tmp_path, running_for):
    """Although the event loop waits for it."""
    (tmp_path / "waits.py").write_text(
        "import asyncio, pathlib\nasync def run(mini_batch):\n"
        f"    pathlib.Path({str(bench.log)!r}).touch()\n    await asyncio.sleep(3600)\n"
    )
    running_for(seconds_since(bench.log.exists, 0))
    slot = bench.slot(str(tmp_path / "waits.py"), run_invocation_timeout=3.0)
    (receipt,) = bench.attempt(slot, bench.works(files)[:1])
    head, *frames = receipt.traceback.splitlines()[:3]
    assert (receipt.error_type, head) == ("InvocationTimeout", "1 task waits (most recent call first):")
    assert [frame.partition(", line ")[2].split()[-1] for frame in frames] == ["sleep", "run"]
    assert frames[1] == f'  File "{tmp_path}/waits.py", line 4 in run'


WAITING = """
import asyncio, subprocess, time

def run(mini_batch): return []

async def nap():
    await asyncio.sleep(3600)

async def call(number):
    await nap()

class Answer:
    def __await__(self):
        yield from nap().__await__()

async def several():
    await asyncio.gather(call(1), call(2), nap())

async def many():
    for number in range(500):
        exec(f"async def wait_{number}(): await nap()", globals())
    await asyncio.gather(*(globals()[f"wait_{number}"]() for number in range(500)))

async def blocked():
    asyncio.get_running_loop().call_soon(time.sleep, 3600)
    await nap()

async def waits_for(awaitable):
    await awaitable

def program():
    subprocess.run(["sleep", "3600"], capture_output=True, timeout=3600)

def init():
"""

#: The end of the script, the parts of the stacks while it waits, in this order, and whether tasks are shown.
STACKS = {
    "coroutine": ("return waits_for(nap())", ["1 task waits", "in nap", "in waits_for", "in select"], True),
    "awaitable": ("return waits_for(Answer())", ["1 task waits", "in __await__", "in waits_for", "in select"], True),
    "equal tasks": ("return several()", ["1 task", "in several", "1 task", "in nap", "2 tasks", "in nap", "in call"], True),
    "many tasks": ("return many()", ["1 task waits", "in many", "1 task waits", "in wait_", "in select"], True),
    "own loop": ("asyncio.run(waits_for(nap()))", ["1 task waits", "in nap", "in waits_for", "in select"], True),
    "blocked loop": ("return blocked()", ["Current thread", "in _run_once", "in _start"], False),
    "no loop": ("program()", ["Current thread", "in select", "in program", "in init"], False),
}


@pytest.mark.parametrize("case", STACKS)
def test_the_stacks_show_where_coroutines_wait(bench, tmp_path, monkeypatch, case):
    """An event loop that waits hides them. Tasks are not waited for where no event loop can write them."""
    monkeypatch.setattr(child_process, "_STACK_LIMIT", 3600.0)
    end, parts, has_tasks = STACKS[case]
    (tmp_path / "waits.py").write_text(f"{WAITING}    {end}\n")
    factory = ChildFactory(bench.settings(str(tmp_path / "waits.py")), lambda: dict(os.environ), str(tmp_path), ProcessLog())
    startup = factory.start("waits", 0)
    try:
        wait_until(lambda: startup.poll(0.05) or startup.stage == IN_INIT)
        pattern = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)

        def are_complete():  # a little earlier, the process has not reached the call in which it waits
            stacks = begin(startup.child.stacks).result(300)
            shows_tasks = re.match("[0-9]+ tasks? wait", stacks) is not None
            return pattern.search(stacks) and shows_tasks == has_tasks and "\0" not in stacks

        wait_until(are_complete)
        assert startup.failure is None
        assert startup.child.exit_status() is None
    finally:
        startup.discard()


def test_tasks_left_behind_end_with_their_mini_batch(bench, files):
    """Of one that succeeds too: the next one has its process to itself."""
    slot = bench.slot("async_steps.py", "--how", "leaves", "--poison", "1")
    receipts = bench.attempt(slot, bench.works(files)[:3])
    assert bench.rows(receipts) == ["1 heart"] * 10 + ["1 heart left over"] * 10 + ["1 heart"] * 10
    assert slot.shut_down() == ""
    assert printed(bench) == "cancelled left over\nshutdown on 1 loop\ncancelled heart\n"


def test_a_thread_left_behind_is_named_at_the_end(bench, files, monkeypatch):
    """The process, which never exits by itself then, is killed."""
    monkeypatch.setattr("prefect_parallel_run.node.slot._EXIT_GRACE", 0.0)
    slot = bench.slot("async_steps.py", "--how", "thread", "--poison", "1")
    assert bench.rows(bench.attempt(slot, bench.works(files)[:3])) == ["1 heart"] * 30
    assert re.search(r"ThreadNotEnded: a thread still runs .*: asyncio_0, wait\(\) in threading.py, line", slot.shut_down())


def test_an_async_generator_cannot_start(bench):
    """Calling it would run nothing."""
    with pytest.raises(SlotUnusableError) as caught:
        bench.slot("async_steps.py", function="yields").start()
    assert caught.value.failure.error == "its run() is an async generator; expected async def without yield, or def"


def test_the_guide_calls_a_service_fifty_calls_at_a_time(bench, tmp_path):
    """The service answers when fifty calls wait: fewer at a time would never be answered."""
    (tmp_path / "score.py").write_text(re.search(r"^```python\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)[1])
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(400):
        (folder / f"{number:03d}.txt").write_text("x" * number)
    with service(together=50) as server:
        slot = bench.slot(str(tmp_path / "score.py"), "--service", server.url)
        receipts = bench.attempt(slot, bench.works(folder, size=200))
        assert slot.shut_down() == ""
    assert [receipt.outcome for receipt in receipts] == ["succeeded"] * 2
    assert bench.rows(receipts) == [f"{number:03d}.txt {number} bytes" for number in range(400)]
    assert (server.calls, server.most) == (400, 50)


def test_the_guide_fails_only_the_items_whose_calls_fail(bench, files, tmp_path):
    (run,) = re.findall(r"^```python\n(async def run.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
    score = "async def score(path):\n    if '3' in path.rpartition('/')[2]: raise ValueError(path)\n    return path[-6:]\n"
    (tmp_path / "score.py").write_text(f"import asyncio\n\n{run}\n\n{score}")
    receipts = bench.attempt(bench.slot(str(tmp_path / "score.py")), bench.works(files)[:1])
    assert [receipt.outcome for receipt in receipts] == ["succeeded"]
    assert bench.rows(receipts) == [f"{number:02d}.txt" for number in range(10) if number != 3]
