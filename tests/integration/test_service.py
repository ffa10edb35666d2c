"""What Dask calls on a worker, with real nodes: opened once, ended once, whatever is asked twice, late or in between."""

import asyncio
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from prefect_parallel_run import ParallelRunConfig
from prefect_parallel_run.environments import EnvironmentPlan
from prefect_parallel_run.errors import ComputeTargetError, EnvironmentSetupError
from prefect_parallel_run.node import rpc
from prefect_parallel_run.node.remote_setup import make_bundle, unpacked
from prefect_parallel_run.runs.fingerprint import source_tree

from ..processes import command_line, lives
from .conftest import wait_until


class Worker:
    """As much of a Dask worker as is asked for; many share this process."""

    def __init__(self, address="tcp://worker"):
        self.address, self.state = address, SimpleNamespace(nthreads=1)
        self.loop = SimpleNamespace(add_callback=asyncio.get_running_loop().call_soon_threadsafe)

    def log_event(self, topic, message):
        pass


def nodes():
    """The scratch folders of the nodes that there are."""
    return sorted(Path(tempfile.gettempdir()).glob("parallel_run_*"))


def children():
    return [process for process in psutil.Process().children(recursive=True) if lives(process)]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A cache and temporary files of this test's own; nothing is left in them, and no process."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("PREFECT_PARALLEL_RUN_CACHE", str(tmp_path / "cache"))
    before = set(children())  # of other tests' fixtures
    yield
    wait_until(lambda: not set(children()) - before)
    assert nodes() == []


def lose_patience(monkeypatch, watchdog):
    """Let a watchdog give up now, however soon it would have done so by itself."""
    monkeypatch.setattr(watchdog, "_patience", 0.0)


async def until(fact):
    await asyncio.to_thread(wait_until, fact)


def test_opening_a_node_twice_keeps_one(bench, monkeypatch):
    """A flow process that missed the answer asks again; the first node's watchdog does not close the second node."""
    settings = bench.settings("echo.py", is_kept=True)

    async def run():
        worker = Worker()
        await asyncio.gather(*(rpc.open_node(settings, None, worker) for _ in range(2)))
        assert len(nodes()) == 1
        first = rpc._runs_on(worker).open["token"].node
        await rpc.open_node(settings, None, worker)
        assert len(nodes()) == 1
        rpc._close_abandoned(rpc._runs_on(worker), "token", first)  # as the watchdog of a replaced node would
        assert len(nodes()) == 1
        lose_patience(monkeypatch, rpc._runs_on(worker).open["token"].watchdog)
        await until(lambda: not rpc._runs_on(worker).open)  # without keep-alives, its watchdog closes it

    asyncio.run(run())


def test_an_ended_run_opens_no_node(bench):
    """Messages may overtake each other; the worker remains usable for the next run."""

    async def run():
        worker, other = Worker(), Worker()
        await rpc.close_node("token", False, worker)
        with pytest.raises(ComputeTargetError, match="the run ended while the node was being opened"):
            await rpc.open_node(bench.settings("echo.py", is_kept=True), None, worker)
        for there, token in ((other, "token"), (worker, "next")):
            await rpc.open_node(bench.settings("echo.py", token=token), None, there)
            assert await rpc.close_node(token, True, there) == rpc.ShutdownReport([], [])

    asyncio.run(run())


@pytest.fixture
def hanging_installer(tmp_path, monkeypatch):
    """A uv that never ends."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "uv").write_text("#!/bin/sh\nexec sleep 1000\n")
    (folder / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def installs():
    return [process for process in children() if command_line(process).startswith("sleep ")]


def test_a_build_is_stopped_where_the_run_ends(bench, hanging_installer):
    """It continues on another worker of the same process."""
    settings = bench.settings("echo.py", environment=EnvironmentPlan(requirements=("six",)), is_kept=True)

    async def run():
        workers = [Worker("a"), Worker("b")]
        openings = [asyncio.ensure_future(rpc.open_node(settings, None, worker)) for worker in workers]
        await until(installs)
        first = installs()[0].pid
        await rpc.close_node("token", False, workers[0])
        with pytest.raises(EnvironmentSetupError, match="stopped"):
            await openings[0]
        await until(lambda: any(process.pid != first for process in installs()))
        assert not openings[1].done()
        await rpc.close_node("token", False, workers[1])
        with pytest.raises(EnvironmentSetupError, match="stopped"):
            await openings[1]

    asyncio.run(run())


@pytest.fixture
def bundle(tmp_path):
    source = tmp_path / "code"
    source.mkdir()
    (source / "score.py").write_text("x = 1\n")
    (source / "data.bin").write_bytes(os.urandom(1000))
    config = ParallelRunConfig(
        entry_script="score.py", source_directory=str(source), error_threshold=0, output_action="append_row"
    )
    return make_bundle(source_tree(config), tmp_path / "bundles")


@pytest.fixture
def pieces(tmp_path, bundle):
    """Arguments of receive_bundle, but for the worker."""
    data = (tmp_path / "bundles" / bundle.file_name).read_bytes()
    half = len(data) // 2
    return [("token", bundle.sha256, 0, data[:half], False), ("token", bundle.sha256, half, data[half:], True)]


def arriving():
    """Files without a name that this process has open in the cache."""
    links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    return [link for link in links if link.is_symlink() and "/cache/bundles/" in os.readlink(link)]


def test_two_workers_of_a_process_receive_separately(bundle, pieces, tmp_path):
    """Each has its own file."""

    async def run():
        workers = [Worker("a"), Worker("b")]
        for piece in pieces:
            for worker in workers:
                await rpc.receive_bundle(*piece, worker)

    asyncio.run(run())
    assert unpacked(tmp_path / "cache", bundle.sha256) is not None
    assert arriving() == []


def test_an_archive_without_a_sender_is_discarded(pieces, monkeypatch):
    """With its file; keep-alives of a slow sender preserve it."""

    async def run():
        worker = Worker()
        first, last = pieces
        await rpc.receive_bundle(*first, worker)
        assert len(arriving()) == 1
        watchdog = rpc._runs_on(worker).arriving["token"].watchdog
        before = watchdog._last_reset
        rpc.keep_node("token", worker)
        assert watchdog._last_reset > before
        lose_patience(monkeypatch, watchdog)
        await until(lambda: not arriving())
        with pytest.raises(RuntimeError, match="a piece at"):
            await rpc.receive_bundle(*last, worker)
        assert arriving() == []

    asyncio.run(run())


def test_disk_errors_name_host_and_path(bench, tmp_path, monkeypatch, pieces):
    """Immediately: Dask would treat an OSError as a lost connection and wait."""

    async def run():
        worker = Worker()
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
            with pytest.raises(ComputeTargetError, match=r"tcp://worker: the node \(host .+\) failed: No such file.*/none/"):
                await rpc.open_node(bench.settings("echo.py"), None, worker)
        (tmp_path / "file").write_text("")
        with monkeypatch.context() as patch:
            patch.setenv("PREFECT_PARALLEL_RUN_CACHE", str(tmp_path / "file"))
            with pytest.raises(ComputeTargetError, match="/file"):
                await rpc.receive_bundle(*pieces[0], worker)

    asyncio.run(run())


def test_a_full_disk_is_reported(pieces, monkeypatch):
    """With the system's message."""

    class Full(rpc.Incoming):
        def __init__(self, cache, sha256):
            super().__init__(cache, sha256)
            self._file.close()
            self._file = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115  closed like the other

    async def run():
        worker = Worker()
        with monkeypatch.context() as patch:
            patch.setattr(rpc, "Incoming", Full)
            with pytest.raises(
                ComputeTargetError, match=r"tcp://worker: the node \(host .+\) failed: .*No space left on device"
            ):
                await rpc.receive_bundle(*pieces[0], worker)
        for piece in pieces:  # there is room again: nothing is left of the attempt
            await rpc.receive_bundle(*piece, worker)

    asyncio.run(run())
