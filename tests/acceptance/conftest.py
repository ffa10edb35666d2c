"""Whole flows on a real Prefect server; one server for the session."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import psutil
import pytest

OURS = (
    "prefect_parallel_run/child",
    "prefect_parallel_run/compute/worker.py",
    "prefect_parallel_run/node/reaper.py",
    "prefect_parallel_run.storage.folders",
)

DASK_OPTIONS = {  #: without its measurements, of which every idle worker makes a hundred a second
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "5s",
}


def ours(*parts: str) -> list[psutil.Process]:
    """Workers, guardians and children that this test session started; or those with *parts* in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if any(part in command for part in parts or OURS) and process.environ().get("PPR_TEST_SESSION") == str(os.getpid()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def wait_until(fact, seconds=300.0, pause=0.02):
    """Return what *fact* returns once that is true; the bound is generous."""
    deadline = time.monotonic() + seconds
    while not (value := fact()):
        assert time.monotonic() < deadline, "the event did not come"
        time.sleep(pause)
    return value


def wait_until_equal(fact, expected, seconds=300.0):
    """Wait until *fact* returns *expected*. Prefect writes states, logs and events behind what it answers."""
    deadline = time.monotonic() + seconds
    while (value := fact()) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    assert value == expected


def prefect_wrote(text: bytes) -> bool:
    """Check whether *text* is in a file of Prefect's: in its home, or in the database, which the test server has elsewhere."""
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_HOME

    database = Path(PREFECT_API_DATABASE_CONNECTION_URL.value().partition(":///")[2])
    assert database.is_file()
    return any(text in read(path) for top in (PREFECT_HOME.value(), database.parent) for path in top.rglob("*"))


def read(path: Path) -> bytes:
    """Return the bytes of a file; none for a folder, or for a file that Prefect's server has deleted meanwhile."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return b""


def pause_listing(monkeypatch, pause, after=50):
    """Have every listing call *pause* when it has listed so many files."""
    from prefect_parallel_run.storage.folders import FileBlock
    from prefect_parallel_run.storage.listing import Listing

    blocks = Listing.blocks

    def in_two_blocks(self):
        files = [file for block in blocks(self) for file in block.files()]
        yield FileBlock.of_files(files[:after])
        pause()
        yield FileBlock.of_files(files[after:])

    monkeypatch.setattr(Listing, "blocks", in_two_blocks)


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium."""
    from .browser import Browser, chromium

    if (program := chromium()) is None:
        pytest.skip("no Chromium here (Debian package chromium)")
    browser = Browser(program)
    yield browser
    browser.close()


@pytest.fixture(scope="session", autouse=True)
def prefect_server(tmp_path_factory):
    """A Prefect server of this session, with a home of its own; afterwards nothing of ours is left running."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PPR_TEST_SESSION", str(os.getpid()))
    patch.setenv("DO_NOT_TRACK", "1")
    patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
    patch.setenv("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")  # a step can be called without a flow
    patch.delenv("PREFECT_API_URL", raising=False)
    for name, value in DASK_OPTIONS.items():
        patch.setenv(name, value)
    import prefect.settings
    from prefect.logging.configuration import setup_logging
    from prefect.testing.utilities import prefect_test_harness

    setup_logging()  # the first run of a process would, and take caplog's handler away from its test
    for name in ("distributed", "bokeh"):  # Dask, if imported before Prefect, stops their propagation; caplog then adds its
        logging.getLogger(name).propagate = True  # handler to them, and an open LocalCluster silences it

    heartbeat = getattr(prefect.settings, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY", None)  # not in the oldest Prefect
    quiet = {} if heartbeat is None else {heartbeat: None}
    with prefect_test_harness(server_startup_timeout=600), prefect.settings.temporary_settings(quiet):
        yield
    wait_until_equal(ours, [])
    patch.undo()


@pytest.fixture(autouse=True)
def no_process_is_left():
    """Every test ends with the processes it began with."""
    before = len(ours())
    yield
    wait_until(lambda: len(ours()) <= before)


class Workshop:
    """Makes steps over a folder of small files, and reads what they leave."""

    def __init__(self, folder: Path, files: Path, scripts: Path) -> None:
        self.folder, self.files, self.scripts = folder, files, scripts
        self.target = "local"
        self.output = folder / "out"
        self.log = folder / "invocations.txt"

    def config(self, script: str = "counts.py", **fields):
        from prefect_parallel_run import ParallelRunConfig

        given = {
            "source_directory": str(self.scripts),
            "entry_script": script,
            "mini_batch_size": 10,
            "error_threshold": -1,
            "output_action": "append_row",
            "node_count": 1,
            "process_count_per_node": 2,
            "run_invocation_timeout": 1000,  # a busy machine may stop any process for a minute; tests of timeouts set their own
            "compute_target": self.target,
        }
        return ParallelRunConfig(**{**given, **fields})

    def step(self, script: str = "counts.py", *arguments: str, name: str = "test", inputs=None, output=None, **fields):
        """A step whose script notes its invocations in self.log."""
        from prefect_parallel_run import ParallelRunStep

        options = {key: fields.pop(key) for key in ("side_inputs", "allow_reuse", "retry_delay_seconds") if key in fields}
        if script in ("counts.py", "poison.py", "slow.py"):
            arguments = ("--log", str(self.log), *arguments)
        return ParallelRunStep(
            name,
            self.config(script, **fields),
            inputs=self.files if inputs is None else inputs,
            output=self.output if output is None else output,
            arguments=list(arguments),
            **options,
        )

    def invocations(self) -> list[tuple[int, int]]:
        """Mini-batch and try of every call of run(), sorted."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return sorted(tuple(map(int, line.split()[1:3])) for line in lines if line.startswith("run "))

    def open_door(self, number: int) -> None:
        """Open door *number* of scripts/counts.py: the mini-batches that wait there continue."""
        self.log.with_name(f"{self.log.name}.door.{number}").touch()


@pytest.fixture
def workshop(tmp_path, files, scripts):
    return Workshop(tmp_path, files, scripts)


@pytest.fixture(scope="session")
def dask_cluster(tmp_path_factory):
    """A scheduler and two workers that many tests use one after another."""
    from .clusters.dask_processes import DaskCluster
    from .clusters.machines import ThisMachine

    folder = tmp_path_factory.mktemp("shared_cluster")
    cluster = DaskCluster(folder, ThisMachine("shared", folder))
    try:
        for name in ("a", "b"):
            cluster.start_worker(name, nanny=False)
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def shared_cluster(workshop, dask_cluster):
    """The workshop's steps run on the session's cluster, whose workers need not start: for tests of anything but clusters."""
    workshop.target = dask_cluster.address
