"""A Dask cluster as its users start it: a scheduler and workers from the command line, on any machines."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil

from prefect_parallel_run.compute.base import read_workers

from ..conftest import wait_until
from .machines import Program, ThisMachine


class DaskCluster:
    """`dask scheduler` and `dask worker`s, one of each name; *tls* holds the options of both that name certificates.

    The scheduler runs on *machine*; workers run there too unless another is named. *environment* is added to that of them all:
    Dask's settings, for instance.
    """

    def __init__(
        self,
        folder: Path,
        machine: ThisMachine,
        tls: list[str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.folder, self.machine, self.tls = folder, machine, tls or []
        self.environment = {
            "DASK_TEMPORARY_DIRECTORY": str(folder),
            **(environment or {}),
        }  # nothing stays in /tmp when it is killed
        self.workers: dict[str, Program] = {}
        self.scheduler_file = folder / "scheduler.json"
        protocol = ["--protocol", "tls"] if self.tls else []
        options = ["--host", machine.address, "--port", "0", "--scheduler-file", str(self.scheduler_file)]
        options += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]  # there is an HTTP server nevertheless
        self.scheduler = self._dask("scheduler", machine, "scheduler", [*options, *protocol, *self.tls])

    def _dask(self, kind: str, machine: ThisMachine, name: str, options: list[str]) -> Program:
        return machine.start(name, [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options], self.environment)

    @property
    def address(self) -> str:
        """Where the scheduler listens, once it does."""
        return wait_until(self._told)["address"]

    def _told(self) -> dict:
        assert self.scheduler.runs, self.scheduler.output
        try:
            return json.loads(self.scheduler_file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def start_worker(self, name: str, *options: str, on: ThisMachine | None = None, nanny: bool = True) -> Program:
        """Start a worker and return at once; it joins within seconds."""
        machine = on or self.machine
        given = [self.address, "--name", name, "--host", machine.address, "--no-dashboard", "--nthreads", "1", *self.tls]
        given += [] if nanny else ["--no-nanny"]
        self.workers[name] = self._dask("worker", machine, name, [*given, *options])
        return self.workers[name]

    def client(self, **options):
        """A client of the test's own."""
        from distributed import Client

        return Client(self.address, **options)

    def processes(self) -> list[psutil.Process]:
        """The workers and all that they started."""
        return [process for worker in self.workers.values() for process in worker.tree()]

    def close(self) -> None:
        """End all workers and the scheduler, whatever state they are in."""
        for program in [*self.workers.values(), self.scheduler]:
            program.kill()


class OtherUser:
    """Somebody else on the cluster, whose task waits on a worker for `finish`, with a result that is kept in memory there."""

    def __init__(self, client) -> None:
        from distributed import Event, Variable

        self.client = client
        self.kept = client.submit(lambda: "kept", key="other-user-kept")
        self.gate = Event("other-user-gate", client)
        self.runs = Variable("other-user-runs", client)
        self.runs.set(0)
        client.wait_for_workers(1)

        def work(gate, runs):
            runs.set(runs.get() + 1)
            gate.wait()
            return "worked"

        self.work = client.submit(work, self.gate, self.runs, key="other-user-work", pure=False)
        wait_until(lambda: self.runs.get() == 1)
        self.settings = self.read_settings()

    def read_settings(self) -> dict[str, object]:
        """What belongs to all users of the cluster: of the scheduler, and of each worker by its name."""

        def of_scheduler(dask_scheduler):
            plugins = sorted(name for name in dask_scheduler.plugins if "prefect" in name or "parallel" in name)
            return dask_scheduler.allowed_failures, plugins

        def of_worker(dask_worker):
            import logging
            import os

            levels = {name: logging.getLogger(name).level for name in ("", "distributed", "distributed.worker")}
            return levels, sorted(dask_worker.plugins), os.getcwd(), sorted(os.environ), dask_worker.state.nthreads

        workers = self.client.run(of_worker)
        names = {address: facts["name"] for address, facts in read_workers(self.client).items()}
        return {"scheduler": self.client.run_on_scheduler(of_scheduler), **{names[key]: told for key, told in workers.items()}}

    def finish(self) -> None:
        """Let the task end; it must have run once, beside whatever went on, and nothing that all share be changed."""
        assert self.read_settings() == self.settings
        self.gate.set()
        assert self.work.result(timeout=300) == "worked"
        assert self.kept.result(timeout=300) == "kept"
        assert self.runs.get() == 1
        self.runs.delete()
