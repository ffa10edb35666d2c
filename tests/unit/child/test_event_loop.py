"""No task of a mini-batch continues in the next one; those of init() continue until the end."""

import asyncio
import threading
from contextlib import closing, nullcontext, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run.child import event_loop
from prefect_parallel_run.child.event_loop import EventLoop, TaskNotCancelled, ThreadNotEnded

KINDS = ["waits", "ends", "starts one", "starts one when cancelled", "raises when cancelled", "in a thread"]


@pytest.fixture
def loop():
    with closing(EventLoop()) as loop:
        yield loop


async def task(kind, log):
    log.append(asyncio.current_task())
    if kind == "starts one":
        log.append(asyncio.create_task(task("waits", log)))
    if kind == "in a thread":
        await asyncio.to_thread(int)
    if kind == "ends":
        return
    try:
        await asyncio.Event().wait()
    finally:
        if kind == "starts one when cancelled":
            log.append(asyncio.create_task(task("waits", log)))
        if kind == "raises when cancelled":
            raise ValueError(kind)


async def call(kinds, log, fails=False):
    log += [asyncio.create_task(task(kind, log)) for kind in kinds]
    await asyncio.sleep(0)
    if fails:
        raise KeyError(kinds)
    return kinds


async def daemon(requests, log):
    """Of init(): starts a task whenever a mini-batch asks it to."""
    while True:
        await requests.get()
        log.append(asyncio.create_task(task("waits", log)))


async def init(requests, log):
    log.append(asyncio.create_task(daemon(requests, log)))


MINI_BATCHES = st.lists(st.tuples(st.lists(st.sampled_from(KINDS), max_size=4), st.booleans()), max_size=4)


@given(MINI_BATCHES)
def test_every_task_ends_with_its_mini_batch(mini_batches):
    """Those of init(), and those that they start for a mini-batch, are alive until the loop is closed."""
    requests, kept = asyncio.Queue(), []

    async def run(kinds, log, fails):
        requests.put_nowait(None)
        return await call(kinds, log, fails)

    with closing(EventLoop()) as loop:
        loop.resolve(init(requests, kept), keeps_tasks=True)
        for number, (kinds, fails) in enumerate(mini_batches, 1):
            own = []
            with pytest.raises(KeyError) if fails else nullcontext():
                assert loop.resolve(run(kinds, own, fails), keeps_tasks=False) == kinds
            assert all(task.done() for task in own)
            assert {str(task.exception()) for task in own if not task.cancelled()} <= {"None", "raises when cancelled"}
            assert len(own) >= len(kinds)
            assert len(set(kept)) == number + 1
            assert not any(task.done() for task in kept)
    assert all(task.cancelled() for task in kept)


async def stubborn():
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


async def leaves(fails):
    asyncio.create_task(stubborn(), name="poll")  # noqa: RUF006  the loop keeps it alive in this test
    await asyncio.sleep(0)
    if fails:
        raise ZeroDivisionError
    return "row"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(event_loop, "_PATIENCE", 0.05)


@pytest.mark.usefixtures("impatient")
def test_a_task_that_cannot_be_cancelled_is_named(loop):
    with pytest.raises(TaskNotCancelled, match=r"poll, stubborn\(\) in test_event_loop.py, line \d+; expected asyncio"):
        loop.resolve(leaves(fails=False), keeps_tasks=False)
    assert {task.get_name() for task in loop.stuck_tasks} == {"poll"}


@pytest.mark.usefixtures("impatient")
def test_the_error_of_run_precedes_that_of_its_tasks(loop):
    """It may be RetryLater or NoRetry."""
    with pytest.raises(ZeroDivisionError):
        loop.resolve(leaves(fails=True), keeps_tasks=False)
    assert len(loop.stuck_tasks) == 1


@pytest.mark.usefixtures("impatient")
def test_a_stuck_task_of_init_is_reported_at_the_end(loop):
    assert loop.resolve(leaves(fails=False), keeps_tasks=True) == "row"
    with pytest.raises(TaskNotCancelled, match="poll"):
        loop.close()


def test_tasks_of_another_factory_end_too(loop):
    """A script may set one, such as asyncio.eager_task_factory."""

    async def set_factory(log):
        asyncio.get_running_loop().set_task_factory(lambda loop, coroutine, **_: asyncio.Task(coroutine, loop=loop))
        log.append(asyncio.create_task(task("waits", log)))

    first, second = [], []
    loop.resolve(set_factory(first), keeps_tasks=True)
    loop.resolve(call(["waits"], second), keeps_tasks=False)
    assert (first[0].done(), second[0].done()) == (False, True)


def test_close_ends_generators_and_threads(loop):
    """So that their cleanup runs while there is a loop."""
    ended = []

    async def numbers():
        try:
            yield 1
        finally:
            ended.append("generator")

    async def use(generator):
        asyncio.get_running_loop().run_in_executor(None, lambda: ended.append("thread"))
        return await generator.__anext__()

    generator = numbers()
    assert loop.resolve(use(generator), keeps_tasks=True) == 1
    loop.close()
    assert sorted(ended) == ["generator", "thread"]


@pytest.fixture
def release():
    """Lets the threads of a test end, which would otherwise outlive it."""
    event, before = threading.Event(), set(threading.enumerate())
    yield event
    event.set()
    for thread in set(threading.enumerate()) - before:
        thread.join()


@pytest.mark.usefixtures("impatient")
def test_a_thread_that_does_not_end_is_named(loop, release):
    """On every version of Python. The loop stays open: the thread may call it."""
    started = threading.Event()

    def hang():
        started.set()
        release.wait()

    async def run():
        asyncio.get_running_loop().run_in_executor(None, hang)

    loop.resolve(run(), keeps_tasks=False)
    started.wait()
    named = r"asyncio_0, wait\(\) in threading.py, .*, hang\(\) in test_event_loop.py, line \d+; expected the function"
    for _ in range(2):
        with pytest.raises(ThreadNotEnded, match=named):
            loop.close()


@pytest.mark.usefixtures("impatient")
def test_a_generator_that_does_not_end_is_cancelled(loop):
    ended = []

    async def numbers():
        try:
            yield 1
        finally:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cancelled")

    async def first(generator):
        return await generator.__anext__()

    generator = numbers()
    assert loop.resolve(first(generator), keeps_tasks=True) == 1
    loop.close()
    assert ended == ["cancelled"]
