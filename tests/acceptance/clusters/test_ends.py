"""What is slow, deaf or stopped on a cluster holds up neither the run nor its end."""

import logging
import os
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from prefect_parallel_run._threads import begin

from ...processes import command_line
from ..conftest import wait_until
from .test_hosts import (
    hosts,  # noqa: F401  a fixture
    logged,
)
from .test_scheduler import EXPECTED, facts, names, verified

END = 10.0  #: s from a person's cancelling to the end, whatever does not answer: CONTRACT.md 8
TRIES = 3  #: of which one must end in time: other programs may keep this machine busy


class Cancelled(BaseException):
    """A person has cancelled."""


class Run:
    """A run without Prefect, in a thread, which can be cancelled: until then, mini-batches wait at a door on every host."""

    def __init__(self, workshop, cluster, **fields):
        from prefect_parallel_run import FileDataset
        from prefect_parallel_run.planning.inputs import normalize_inputs
        from prefect_parallel_run.runs.spec import ScriptParameters, StepSpec

        home = workshop.folder / "home"
        home.mkdir(exist_ok=True)
        self._target = cluster
        self._spec = StepSpec(
            name="test",
            config=workshop.config("slow.py", process_count_per_node=1, mini_batch_size=1, **fields),
            datasets=normalize_inputs([FileDataset.from_files(workshop.files)]),
            output=str(workshop.output),
            parameters=ScriptParameters(("--log", str(workshop.log), "--sleep", "0.3", "--doors", "8")),
            interpreter=None,
            home=home,
        )
        self._cancel = threading.Event()
        self._outcome = Future()
        self._thread = threading.Thread(target=self._do, daemon=True)
        self._thread.start()

    def _check_cancelled(self):
        if self._cancel.is_set():
            raise Cancelled

    def _do(self):
        from prefect_parallel_run.compute.scheduler import SchedulerTarget
        from prefect_parallel_run.execution.runner import Callbacks, run_step
        from prefect_parallel_run.monitoring.listeners import listeners_of
        from prefect_parallel_run.output.reduction import reduce
        from prefect_parallel_run.runs.events import emit_to

        emit = emit_to(listeners_of("test", logging.getLogger("test"), in_prefect=False))
        callbacks = Callbacks(reduce=reduce, emit=emit, check_cancelled=self._check_cancelled)
        target = SchedulerTarget(self._target.address, allow_insecure=True)
        try:
            self._outcome.set_result(run_step(self._spec, target, callbacks))
        except BaseException as error:  # noqa: BLE001  handed to the test
            self._outcome.set_exception(error)

    def cancel(self):
        """Cancel, and return how long it took to end, s."""
        assert not self._outcome.done()
        began = time.monotonic()
        self._cancel.set()
        with pytest.raises(Cancelled):
            self._outcome.result(600)
        return time.monotonic() - began


def test_cancelled_while_the_scheduler_is_stopped(workshop, start_cluster):
    """It takes our connections, and never says a word."""
    cluster = start_cluster("a")

    def cancel():
        before = len(workshop.invocations())
        run = Run(workshop, cluster)
        wait_until(lambda: len(workshop.invocations()) > before)
        cluster.scheduler.stop()
        seconds = run.cancel()
        cluster.scheduler.go_on()
        wait_until(lambda: not facts(cluster))
        return seconds

    assert any(cancel() < END for _ in range(TRIES))


def test_cancelled_while_it_connects_to_a_scheduler_that_is_stopped(workshop, start_cluster):
    """Its word is not waited for."""
    cluster = start_cluster()
    assert cluster.address
    cluster.scheduler.stop()

    def cancel():
        before = set(threading.enumerate())
        run = Run(workshop, cluster)
        wait_until(lambda: any(thread.name == "call-that-may-hang" for thread in set(threading.enumerate()) - before))
        return run.cancel()

    assert any(cancel() < END for _ in range(TRIES))
    cluster.scheduler.go_on()


def test_cancelled_while_a_node_with_rows_at_home_is_deaf(workshop, hosts):  # noqa: F811
    """All that is waited for at the end shares one deadline; and when it hears again, it stops too."""
    cluster, first, second = hosts

    def cancel():
        before = len(logged(first, workshop)), len(logged(second, workshop))
        run = Run(workshop, cluster, node_count=2)
        wait_until(lambda: len(logged(first, workshop)) > before[0] and len(logged(second, workshop)) > before[1])
        cluster.workers["second"].stop()
        seconds = run.cancel()
        cluster.workers["second"].go_on()
        for host, ours in ((first, "parallel_run"), (second, "parallel_run/child")):
            wait_until(lambda host=host, ours=ours: not any(ours in command_line(p) for p in host.processes()))
        return seconds

    assert any(cancel() < END for _ in range(TRIES))


def test_an_installer_that_hangs_holds_up_nobody(workshop, start_cluster, monkeypatch, tmp_path):
    """The other node does all the work meanwhile; at the end nobody waits for the installer, which is ended."""
    from prefect_parallel_run import Environment

    cluster = start_cluster("a")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "uv").write_text(f"#!/bin/sh\ntouch {tmp_path / 'hangs'}\nexec sleep 1000\n")
    (tools / "uv").chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        patch.setenv("PREFECT_PARALLEL_RUN_CACHE", str(tmp_path / "cache"))
        cluster.start_worker("b")
        with cluster.client() as client:
            client.wait_for_workers(2)
    environment = Environment(requirements=["iniconfig==2.0.0"])
    gate = workshop.folder / "open"
    step = workshop.step(
        "gated.py",
        *("--log", str(workshop.log), "--gate", "3", "--open", str(gate)),
        compute_target=cluster.address,
        environment=environment,
        node_count=2,
        process_count_per_node=1,
        mini_batch_size=5,
    )
    run = begin(step)
    wait_until(lambda: (tmp_path / "hangs").exists() and (3, 1) in workshop.invocations())
    gate.touch()
    result = run.result(600)
    assert names(result) == EXPECTED
    assert verified(result)
    wait_until(lambda: not any(command_line(process).startswith("sleep ") for process in cluster.processes()))
    wait_until(lambda: not list(Path(tmp_path, "cache", "environments").glob("*/bin")))  # removed once the installer has ended
