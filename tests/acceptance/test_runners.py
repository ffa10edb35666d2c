"""A step works under every task runner and in async flows: result, log, artifacts, events, reuse, cancellation."""

import asyncio
import threading
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterFlowRunId
from prefect.states import Cancelling
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from .conftest import wait_until, wait_until_equal
from .test_compose import NAMES
from .test_prefect import artifacts, events_of

# A Ray that is started and shut down in this process warns of files and sockets of its own that nobody closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


def dask():
    from prefect_dask import DaskTaskRunner

    quiet = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    return DaskTaskRunner(cluster_kwargs=quiet)


def ray():
    from prefect_ray import RayTaskRunner

    return RayTaskRunner(init_kwargs={"num_cpus": 2, "include_dashboard": False, "log_to_driver": False})


RUNNERS = {
    "threads": lambda: ThreadPoolTaskRunner(max_workers=2),
    "processes": lambda: ProcessPoolTaskRunner(max_workers=1),
    "dask": dask,
    "ray": ray,
}


def seen(flow_run_id):
    """What Prefect's API has of a flow run: states by task run, log, kinds of artifacts, events."""
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])))
        logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])))
    states = sorted((run.name, run.state_name) for run in runs)
    text = "\n".join(log.message for log in logs)
    kinds = {artifact.key for artifact in artifacts(flow_run_id)}
    return states, text, kinds, [event["event"].rpartition(".")[2] for event in events_of(flow_run_id)]


@pytest.mark.parametrize("name", RUNNERS)
def test_submitted_to_a_task_runner(workshop, name):
    """In threads and other processes; the second run returns the earlier result."""
    step = workshop.step("poison.py", "--how", "raise", "--poison", "3", run_max_try=2)
    found = []

    @flow(task_runner=RUNNERS[name]())
    def run():
        from prefect.runtime import flow_run

        found.append(flow_run.id)
        first = step.submit()
        again = step.submit(wait_for=[first])
        results = first.result(), again.result()
        states = [("test", "Cached"), ("test", "Completed"), ("test reduce", "Completed")]
        # Within the flow: when it ends, Ray kills its processes, with what they have not sent to Prefect yet.
        wait_until_equal(lambda: seen(flow_run.id)[0], states)
        wait_until_equal(lambda: seen(flow_run.id)[3], ["started", "finished", "reused"])
        wait_until(lambda: "90 of 100 items succeeded" in seen(flow_run.id)[1])
        wait_until_equal(lambda: seen(flow_run.id)[2], {"test-progress", "test-failures", "test-summary", "test-report"})
        return results

    first, again = run()
    assert Path(first.output_file).read_text().splitlines() == NAMES[:30] + NAMES[40:]
    assert (first.reused, again.reused, again.run_id) == (False, True, first.run_id)
    assert len(workshop.invocations()) == 11
    assert seen(found[0])[1].count("ZeroDivisionError: division by zero") == 2


def test_in_an_async_flow(workshop):
    """Several submitted at the same time and gathered; in a thread beside the event loop; and called, which blocks the loop."""
    outputs = [workshop.folder / name for name in ("one", "two", "three", "four")]

    @flow
    async def run():
        step = workshop.step()
        futures = [step.submit(output=output) for output in outputs[:2]]
        results = await asyncio.gather(*(asyncio.to_thread(future.result) for future in futures))
        beats = []

        async def tick():
            while True:
                beats.append(None)
                await asyncio.sleep(0.01)

        beating = asyncio.create_task(tick())
        results.append(await asyncio.to_thread(step, output=outputs[2]))
        beating.cancel()
        assert len(beats) > 1
        return [*results, step(output=outputs[3])]

    for result in asyncio.run(run()):
        assert Path(result.output_file).read_text().splitlines() == NAMES


def test_cancelled_in_a_process_without_signals(workshop):
    """A step in a pool, on Dask or on Ray detects in the API that its flow run is being cancelled."""
    step = workshop.step("slow.py", "--sleep", "0", "--doors", "4", mini_batch_size=1)
    found, messages = [], []

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def run():
        from prefect.runtime import flow_run

        found.append(flow_run.id)
        future = step.submit()
        future.wait()
        messages.append(future.state.message)
        wait_until_equal(lambda: seen(flow_run.id)[3], ["started", "cancelled"])  # before the runner ends its processes

    def cancel():
        try:
            wait_until(lambda: len(workshop.invocations()) >= 2)
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(found[0], Cancelling(), force=True)
            wait_until(lambda: messages)
        finally:
            workshop.open_door(4)

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        run(return_state=True)
    finally:
        thread.join()
    assert "the flow run is being cancelled" in messages[0]
    assert len(workshop.invocations()) < 100
