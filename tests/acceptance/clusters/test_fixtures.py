"""The clusters themselves, with nothing of ours on them: what the other tests here stand on."""

import os
import signal
from contextlib import closing
from pathlib import Path

import pytest

from ...processes import lives
from ..conftest import wait_until


def test_workers_come_and_go_beside_another_users_task(start_cluster, other_user):
    """A killed worker is started again by its nanny, one without a nanny is gone; the task beside it runs on."""
    cluster = start_cluster("a")
    user = other_user(cluster)
    with cluster.client() as client:
        lone = cluster.start_worker("b", nanny=False)
        client.wait_for_workers(2)
        pid = client.run(os.getpid)
        lone.kill()
        wait_until(lambda: len(client.nthreads()) == 1)  # client.run() raises while the scheduler has the lost one too
        assert set(client.run(os.getpid).items()) < set(pid.items())
        user.finish()
        before = list(client.run(os.getpid).values())
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: (now := list(client.run(os.getpid, on_error="ignore").values())) and now != before)


def test_tls_lets_in_whom_the_authority_signed(start_cluster, authority, stranger):
    """And nobody else."""
    from distributed import Client

    cluster = start_cluster("a", tls=authority.options("server"))
    assert cluster.address.startswith("tls://127.0.0.1:")
    with Client(cluster.address, security=authority.security("client")) as client:
        assert client.submit(sum, [1, 2]).result(timeout=300) == 3
    with pytest.raises(OSError, match="TLS certificate does not match"):
        Client(cluster.address, security=stranger.security("client"), timeout=300)


def test_ssh_cluster(ssh):
    """distributed's own, on the machine behind sshd; nothing stays there."""
    from distributed import Client, SSHCluster

    options = {"nthreads": 1, "n_workers": 1}
    hosts = ["127.0.0.1"] * 3
    with SSHCluster(hosts, connect_options=ssh.connect_options, worker_options=options) as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        assert client.submit(os.uname).result(timeout=300).nodename == "reached-by-ssh"
    wait_until(lambda: not ssh.programs())


def test_slurm_cluster(queue, tmp_path):
    """dask-jobqueue's, with a job on each node; they are cancelled with the cluster."""
    from dask_jobqueue import SLURMCluster
    from distributed import Client

    size = {"cores": 1, "processes": 1, "memory": "1GB", "job_cpu": 4, "interface": "lo"}
    folders = {"log_directory": str(tmp_path / "logs"), "local_directory": str(tmp_path / "local")}
    quiet = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    with SLURMCluster(**size, **folders, scheduler_options=quiet) as cluster, Client(cluster) as client:
        cluster.scale(2)
        client.wait_for_workers(2, timeout=300)
        assert sorted(client.run(os.getenv, "SLURMD_NODENAME").values()) == ["node-1", "node-2"]
        assert [job.split()[1] for job in queue.jobs()] == ["RUNNING"] * 2
    wait_until(lambda: not queue.jobs())


def test_hosts_have_folders_of_their_own_and_a_plug(network, start_cluster, tmp_path):
    """A worker on each; what one writes the others do not see; a host that was cut off goes on when it is mended."""
    first, second = (network.host(name, [tmp_path]) for name in ("first", "second"))
    fact = tmp_path / "fact"
    first.path(fact).write_text("seen")
    cluster = start_cluster(on=network, environment={"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "600s"})  # outlasts the cut
    for host in (first, second):
        cluster.start_worker(host.name, on=host)
    with cluster.client() as client:
        client.wait_for_workers(2)
        seen = {key.split(":")[1].strip("/"): value for key, value in client.run(fact.exists).items()}
        assert seen == {first.address: True, second.address: False}
        assert not fact.exists()
        assert sorted(told.nodename for told in client.run(os.uname).values()) == ["first", "second"]
        second.cut()
        waiting = client.submit(sum, [1, 2], workers=["second"])
        assert client.submit(sum, [3, 4], workers=["first"]).result(timeout=300) == 7
        assert not waiting.done()
        second.mend()
        assert waiting.result(timeout=300) == 3


def test_a_worker_that_is_cut_off_for_long_ends_and_does_not_come_back(network, start_cluster):
    """What our nodes count on: scheduler and worker both give up after Dask's comm.timeouts.tcp, and its nanny ends with it."""
    host = network.host("host", [])
    cluster = start_cluster(on=network, environment={"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s"})  # 11 s is the least
    worker = cluster.start_worker("a", on=host)
    with cluster.client() as client:
        client.wait_for_workers(1)
        host.cut()
        wait_until(lambda: not client.nthreads(), 300)
        host.mend()
        wait_until(lambda: not worker.runs, 300)
        assert "worker-handle-scheduler-connection-broken" in worker.output
        assert not client.nthreads()


def test_a_machine_leaves_nothing_behind(tmp_path, namespaces):
    """Neither processes, those in sessions of their own included, nor mounts."""
    from .machines import Machine

    def mounts():
        """Return the mounts below the folders that the machine covers; other tests mount elsewhere meanwhile."""
        lines = Path("/proc/self/mounts").read_text().splitlines()
        return [line for line in lines if line.split()[1].startswith(("/proc", str(tmp_path)))]

    before = mounts()
    with closing(Machine("short-lived", tmp_path, hidden=[tmp_path])) as machine:
        machine.start("shell", ["setsid", "sh", "-c", "sleep 1000 & sleep 1001"])
        left = wait_until(lambda: len(found := machine.processes()) >= 3 and found)
    wait_until(lambda: not any(map(lives, left)))
    assert mounts() == before
