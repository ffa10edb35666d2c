"""Clusters that we open on this machine serve this user only; what they are opened with is shown to no other."""

import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from prefect_parallel_run.compute.base import Request
from prefect_parallel_run.compute.cluster_class import ClassTarget
from prefect_parallel_run.compute.local import LocalTarget
from prefect_parallel_run.errors import ComputeTargetError

from .conftest import wait_until, worker_counts_of_eight

STRANGER = Path(__file__).with_name("stranger.py")
REQUEST = Request(nodes=2, at_least=None, slots=1, timeout=120)
LOCAL_CLASS = "distributed.LocalCluster"


def family():
    """This process and those that it has started."""
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def listening():
    """Ports at which the family listens."""
    sockets = set()
    for process in family():
        with suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
                with suppress(FileNotFoundError):  # closed meanwhile
                    sockets.add(os.readlink(descriptor))
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for fields in map(str.split, Path(table).read_text().splitlines()[1:]):
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def port(address):
    return int(address.rpartition(":")[2])


def attack(ports, folder, protocols, patience):
    """Have another user attack these ports; return what came of it, and the folders that code made as this user."""
    folder.mkdir()
    given = {"user": os.getuid(), "ports": sorted(ports), "folder": str(folder), "protocols": protocols, "patience": patience}
    done = subprocess.run(
        [sys.executable, str(STRANGER)], input=json.dumps(given), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert ports <= set(said["found"])
    assert not [answer for answer in said["answers"].values() if "ModuleNotFoundError" in answer]  # it was able to attack
    return said["answers"], sorted(path.name for path in folder.iterdir())


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@needs_root
@pytest.mark.parametrize("target", [LocalTarget(), ClassTarget(LOCAL_CLASS, {})], ids=["local", LOCAL_CLASS])
def test_another_user_finds_the_ports_and_is_refused(target, tmp_path):
    """Scheduler and workers take no word from anyone without the run's own certificate."""
    before = listening()
    with target.open(REQUEST, threading.Event(), Future()) as cluster:
        info = cluster.client.sync(cluster.client.scheduler.identity)
        ports = listening() - before
        assert ports >= {port(info["address"]), *map(port, info["workers"])}
        answers, made = attack(ports, tmp_path / "made", ["tcp", "tls"], patience=5)
    assert made == []
    assert all(answer.startswith("refused: ") for answer in answers.values()), answers


@needs_root
def test_the_same_attack_takes_over_a_plain_cluster(tmp_path):
    """Else the test above would show nothing."""
    with ClassTarget(LOCAL_CLASS, {}, allow_insecure=True).open(REQUEST, threading.Event(), Future()) as cluster:
        info = cluster.client.sync(cluster.client.scheduler.identity)
        scheduler, *workers = [port(info["address"]), *map(port, info["workers"])]
        answers, made = attack({scheduler, *workers}, tmp_path / "made", ["tcp"], patience=120)
    assert made == sorted([f"{scheduler}.0.run_function", *(f"{worker}.0.run" for worker in workers)]), answers


def test_a_local_cluster_listens_for_scheduler_and_workers_only(bench):
    """No pages, no ports of the children, and no secret in what every user can read of a process."""
    settings = Future()
    settings.set_result(bench.settings("counts.py", "--log", str(bench.log)))
    before = listening()
    with LocalTarget().open(REQUEST, threading.Event(), settings) as cluster:
        wait_until(lambda: bench.log.exists() and bench.log.read_text().count("init ") == 2)
        info = cluster.client.sync(cluster.client.scheduler.identity)
        assert listening() - before == {port(info["address"]), *map(port, info["workers"])}
        secret = re.findall(r"^[A-Za-z0-9+/=]{16,}$", cluster.client.security.tls_client_key, re.MULTILINE)
        assert len(secret) >= 2
        for process in family():
            with suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
                shown = b"".join(Path(f"/proc/{process.pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
                assert not [line for line in secret if line.encode() in shown]
                assert b"PRIVATE KEY" not in shown


def test_a_class_that_opens_a_plain_scheduler_is_refused(tmp_path, monkeypatch):
    """On loopback as well: there every user of the machine is a neighbour."""
    module = (
        "import distributed\n"
        "class Plain(distributed.LocalCluster):\n"
        "    def __init__(self):\n"
        "        super().__init__(n_workers=0, host='127.0.0.1', dashboard_address='127.0.0.1:0')\n"
    )
    (tmp_path / "clusters_without_tls.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    target = ClassTarget("clusters_without_tls.Plain", {})
    with (
        pytest.raises(
            ComputeTargetError,
            match=r"the connection to its scheduler at tcp://127\.0\.0\.1:.* not encrypted: .*allow_insecure=True",
        ),
        target.open(REQUEST, threading.Event(), Future()),
    ):
        pytest.fail("it was opened")
    sys.modules.pop("clusters_without_tls")


def test_eight_clusters_of_a_class_open_at_once_from_threads():
    """Steps that are submitted together open theirs together; what a scheduler imports late must not race."""
    assert worker_counts_of_eight(ClassTarget(LOCAL_CLASS, {"processes": False})) == [1] * 8
