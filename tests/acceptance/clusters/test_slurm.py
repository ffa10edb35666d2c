"""What a queue does to a step: nodes that it does not give, and nodes that it takes away."""

import logging
from pathlib import Path

import pytest

from prefect_parallel_run._threads import begin
from prefect_parallel_run.compute import cluster_class

from ..conftest import wait_until


@pytest.fixture
def target(queue, tmp_path):
    """Jobs of which each fills one of SLURM's two nodes."""
    from prefect_parallel_run import ComputeTarget

    size = {"cores": 1, "processes": 1, "memory": "1GB", "job_cpu": 4, "interface": "lo"}
    folders = {"log_directory": str(tmp_path / "logs"), "local_directory": str(tmp_path / "local")}
    return ComputeTarget(cluster_class="dask_jobqueue.SLURMCluster", cluster_kwargs={**size, **folders})


def test_jobs_that_wait_in_the_queue_are_not_waited_for_without_end(workshop, queue, target, caplog, monkeypatch):
    """Three nodes are asked for, the queue has two: those do everything, and the third job goes too."""
    wait_for_workers = cluster_class.wait_for_workers

    def wait_for_two_first(name, request, cancelled, count):
        wait_until(lambda: count() == 2)  # the time that their jobs take to start does not count
        wait_for_workers(name, request, cancelled, count)

    monkeypatch.setattr(cluster_class, "wait_for_workers", wait_for_two_first)
    with caplog.at_level(logging.INFO):
        result = workshop.step(compute_target=target, node_count=3, process_count_per_node=1, node_start_timeout=1)()
    assert "starting with 2 of 3 nodes" in caplog.text
    assert result.rows == 100
    assert workshop.invocations() == [(number, 1) for number in range(10)]
    wait_until(lambda: not queue.jobs())


def test_a_job_that_is_cancelled_costs_no_row(workshop, queue, target):
    """As the queue does when its time is up; what it was running is run by the other."""
    arguments = ("--sleep", "0.1", "--doors", "30")  # so that there is work until the job is cancelled
    step = workshop.step(
        "slow.py", *arguments, compute_target=target, node_count=2, process_count_per_node=1, mini_batch_size=1
    )
    run = begin(step)
    wait_until(lambda: len(workshop.invocations()) > 20)
    job = queue.run("squeue", "-h", "-t", "R", "-o", "%i").split()[0]
    queue.run("scancel", job)
    workshop.open_door(30)
    names = Path(run.result(600).output_file).read_text().split()
    assert len(names) == len(set(names)) == 100
    assert names == sorted(names)
    wait_until(lambda: not queue.jobs())
