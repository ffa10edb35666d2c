"""Scripts with async def: one event loop per child, stopped like any other script."""

import re
from pathlib import Path

import pytest

from prefect_parallel_run.node.slot import SlotUnusableError

from ..services import service

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
    "hang": ("timed_out", "InvocationTimeout", "run_invocation_timeout = 2 s", 2),
    "gather": ("raised", "ValueError", "fails at once", 1),
    "exit": ("raised", "SystemExit", "enough", 1),
    "stubborn": ("raised", "TaskNotCancelled", "poll, stubborn() in async_steps.py, line", 2),
    "not_awaited": ("wrong_type", "WrongType", "returned a list with a coroutine that was not awaited; return a list", 1),
    "tasks": ("wrong_type", "WrongType", "returned a list with a Task that was not awaited; return a list", 1),
}


@pytest.mark.parametrize("how", OUTCOMES)
def test_a_failed_coroutine_costs_no_other_mini_batch(bench, files, how):
    """The loop is still usable, and no task of the failed attempt is left on it."""
    slot = bench.slot("async_steps.py", "--how", how, "--poison", "1", run_invocation_timeout=2.0)
    receipts = bench.attempt(slot, bench.works(files)[:3])
    outcome, error_type, words, processes = OUTCOMES[how]
    assert [receipt.outcome for receipt in receipts] == ["succeeded", outcome, "succeeded"]
    assert (receipts[1].error_type, words in receipts[1].error) == (error_type, True), receipts[1].error
    assert bench.rows(receipts) == ["1 heart"] * 20
    assert len({receipt.pid for receipt in receipts}) == processes
    assert ("cancelled left over" in printed(bench)) == (how == "gather")


def test_tasks_left_behind_end_with_their_mini_batch(bench, files):
    """Of one that succeeds too: the next one has its process to itself."""
    slot = bench.slot("async_steps.py", "--how", "leaves", "--poison", "1")
    receipts = bench.attempt(slot, bench.works(files)[:3])
    assert bench.rows(receipts) == ["1 heart"] * 10 + ["1 heart left over"] * 10 + ["1 heart"] * 10
    assert slot.shut_down() == ""
    assert printed(bench) == "cancelled left over\nshutdown on 1 loop\ncancelled heart\n"


def test_a_thread_left_behind_is_named_at_the_end(bench, files):
    """The process, which never exits by itself then, is killed."""
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
