"""Clusters that are opened for a step, and end with it: SSH, SLURM, and Dask's own classes; and TLS."""

import logging

import pytest

from prefect_parallel_run._threads import begin

from ...interpreter import facts_of
from ..conftest import wait_until
from .test_scheduler import EXPECTED, names, verified


def test_a_running_scheduler_with_tls(workshop, start_cluster, authority, stranger):
    """Files of the compute target let us in; those of another authority do not, and that is told at once."""
    from prefect_parallel_run import ComputeTarget, ComputeTargetError

    cluster = start_cluster("a", tls=authority.options("server"))

    def target(whose):
        certificate, key = whose.issue("client")
        files = {"tls_ca_file": str(whose.ca), "tls_cert_file": str(certificate), "tls_key_file": str(key)}
        return ComputeTarget(address=cluster.address, **files)

    result = workshop.step(compute_target=target(authority))()
    assert names(result) == EXPECTED
    assert verified(result)
    with pytest.raises(ComputeTargetError, match=r"(?i)certificate"):
        workshop.step(compute_target=target(stranger), run_max_try=1, output=workshop.folder / "other")()


def test_ssh_cluster(workshop, ssh):
    """Its scheduler and workers are started over SSH, and are gone afterwards."""
    from prefect_parallel_run import ComputeTarget

    options = {"hosts": ["127.0.0.1"] * 3, "connect_options": ssh.connect_options}
    target = ComputeTarget(cluster_class="distributed.SSHCluster", cluster_kwargs=options, allow_insecure=True)
    result = workshop.step(compute_target=target, node_count=2, process_count_per_node=1)()
    assert names(result) == EXPECTED
    assert verified(result)
    wait_until(lambda: not ssh.programs())


def test_a_plain_cluster_must_be_accepted(workshop):
    """One that others on the network could read along with."""
    from prefect_parallel_run import ComputeTarget, ComputeTargetError

    target = ComputeTarget(cluster_class="distributed.SSHCluster", cluster_kwargs={"hosts": ["127.0.0.1"] * 2})
    with pytest.raises(ComputeTargetError, match=r"not encrypted: .*; configure certificates, or set allow_insecure=True"):
        workshop.step(compute_target=target, run_max_try=1)()


def test_slurm_cluster(workshop, queue, tmp_path):
    """A job per node, with certificates of our own making; the queue is empty afterwards, and no certificate is left."""
    from prefect_parallel_run import ComputeTarget

    options = {
        "cores": 1,
        "memory": "1GB",
        "job_cpu": 4,
        "interface": "lo",
        "log_directory": str(tmp_path / "logs"),
        "local_directory": str(tmp_path / "local"),
    }
    target = ComputeTarget(cluster_class="dask_jobqueue.SLURMCluster", cluster_kwargs=options)
    result = workshop.step(compute_target=target, node_count=2, process_count_per_node=2)()
    assert names(result) == EXPECTED
    assert verified(result)
    wait_until(lambda: not queue.jobs())


def test_distributeds_local_cluster(workshop):
    """By its dotted name."""
    words = ("--log", str(workshop.log), "--processes", "2")  # both: else the work may be done before the second is there
    target = {"compute_target": "distributed.LocalCluster", "node_count": 2, "process_count_per_node": 1}
    result = workshop.step("gathers.py", *words, **target)()
    assert names(result) == EXPECTED
    assert verified(result)
    assert sum(line.startswith("init ") for line in workshop.log.read_text().splitlines()) == 2


def test_importing_a_cluster_class_changes_no_signal_handler():
    """dask_jobqueue has Ctrl-C end the process without a word."""
    code = (
        "import signal; before = signal.getsignal(signal.SIGINT)\n"
        "from prefect_parallel_run.compute.cluster_class import load_class\n"
        "name = load_class('dask_jobqueue.SLURMCluster').__name__\n"
        "facts = {'name': name, 'same': signal.getsignal(signal.SIGINT) is before}\n"
    )
    assert facts_of(code) == {"name": "SLURMCluster", "same": True}


def test_arguments_that_count_nodes_are_refused(workshop):
    """node_count does that."""
    from prefect_parallel_run import ComputeTarget

    target = ComputeTarget(cluster_class="distributed.LocalCluster", cluster_kwargs={"n_workers": 3})
    with pytest.raises(ValueError, match="must not contain n_workers; set node_count instead"):
        workshop.step(compute_target=target)()


def test_a_cluster_grows_and_shrinks(workshop, caplog):
    """From one node to three while work waits, and back while the last mini-batch runs; nothing runs twice."""
    gate = workshop.folder / "open"
    step = workshop.step(
        "gated.py",
        *("--log", str(workshop.log), "--gate", "99", "--open", str(gate)),
        compute_target="distributed.LocalCluster",
        node_count=3,
        min_nodes=1,
        process_count_per_node=1,
        mini_batch_size=1,
    )
    with caplog.at_level(logging.INFO):
        run = begin(step)
        wait_until(lambda: caplog.text.count("released idle node") == 2)
        gate.touch()
        result = run.result(600)
    assert len(names(result)) == 100
    assert verified(result)
    joined = [record.args[0] for record in caplog.records if getattr(record, "action", "") == "node_joined"]
    assert sorted(joined) == ["node-0", "node-1", "node-2"]
    assert workshop.invocations() == [(number, 1) for number in range(100)]
