"""Real clusters to run steps on: Dask from the command line, TLS, SSH, SLURM, and hosts that share no folder."""

from __future__ import annotations

from contextlib import ExitStack, closing

import pytest

from . import machines, slurm, ssh_server
from .certificates import Authority
from .dask_processes import DaskCluster, OtherUser
from .network import Network


@pytest.fixture
def start_cluster(tmp_path_factory):
    """Start Dask clusters: `start_cluster("a", "b")` has two workers of these names."""
    with ExitStack() as stack:

        def start(*workers, on=None, tls=None, environment=None, **options):
            folder = tmp_path_factory.mktemp("cluster")
            machine = on or stack.enter_context(closing(machines.ThisMachine("here", folder)))
            cluster = stack.enter_context(closing(DaskCluster(folder, machine, tls, environment)))
            for name in workers:
                cluster.start_worker(name, **options)
            return cluster

        yield start


@pytest.fixture
def other_user():
    """Give a cluster somebody else who works there: `other_user(cluster)`."""
    with ExitStack() as stack:
        yield lambda cluster, **options: OtherUser(stack.enter_context(cluster.client(set_as_default=False, **options)))


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """Whom scheduler, workers and clients of the TLS tests believe."""
    return Authority(tmp_path_factory.mktemp("certificates"), "authority")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory):
    """Another authority, of the same name."""
    return Authority(tmp_path_factory.mktemp("strange"), "authority")


@pytest.fixture(scope="session")
def namespaces():
    """Machines can be made here."""
    if reason := machines.lacking():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def ssh(tmp_path_factory, namespaces):
    """A machine that is reached by SSH, on loopback."""
    if reason := ssh_server.lacking():
        pytest.skip(reason)
    with closing(ssh_server.SSHServer(tmp_path_factory.mktemp("ssh"))) as server:
        yield server


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory, namespaces):
    """SLURM with two nodes; its commands work in tests that use `queue`."""
    if reason := slurm.lacking():
        pytest.skip(reason)
    with closing(slurm.Slurm(tmp_path_factory.mktemp("slurm"))) as cluster:
        yield cluster


@pytest.fixture
def queue(slurm_cluster, monkeypatch):
    """SLURM as its users see it, without jobs."""
    for name, value in slurm_cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm_cluster
    slurm_cluster.run("scancel", "--user=root")
    machines.wait_until(lambda: not slurm_cluster.jobs())


@pytest.fixture
def network(tmp_path_factory, namespaces):
    """A switch for hosts; this machine is plugged in too."""
    with closing(Network(tmp_path_factory.mktemp("network"))) as made:
        yield made
