"""What a queue does to a step: nodes that it does not give, and nodes that it takes away."""

import logging
import threading
from pathlib import Path

import pytest

from ..conftest import wait_until


@pytest.fixture
def target(queue, tmp_path):
    """Jobs of which each fills one of SLURM's two nodes."""
    from prefect_parallel_run import ComputeTarget

    size = {"cores": 1, "processes": 1, "memory": "1GB", "job_cpu": 4, "interface": "lo"}
    folders = {"log_directory": str(tmp_path / "logs"), "local_directory": str(tmp_path / "local")}
    return ComputeTarget(cluster_class="dask_jobqueue.SLURMCluster", cluster_kwargs={**size, **folders})


def test_jobs_that_wait_in_the_queue_are_not_waited_for_without_end(workshop, queue, target, caplog):
    """Three nodes are asked for, the queue has two: those do everything, and the third job goes too."""
    with caplog.at_level(logging.INFO):
        result = workshop.step(compute_target=target, node_count=3, process_count_per_node=1, node_start_timeout=15)()
    assert "starting with 2 of 3 nodes" in caplog.text
    assert result.rows == 100
    assert workshop.invocations() == [(number, 1) for number in range(10)]
    wait_until(lambda: not queue.jobs())


def test_a_job_that_is_cancelled_costs_no_row(workshop, queue, target):
    """As the queue does when its time is up; what it was running is run by the other."""
    arguments = ("--sleep", "0.1")
    step = workshop.step(
        "slow.py", *arguments, compute_target=target, node_count=2, process_count_per_node=1, mini_batch_size=1
    )
    found = {}
    thread = threading.Thread(target=lambda: found.update(result=step()))
    thread.start()
    wait_until(lambda: len(workshop.invocations()) > 20)
    job = queue.run("squeue", "-h", "-t", "R", "-o", "%i").split()[0]
    queue.run("scancel", job)
    thread.join(120)
    names = Path(found["result"].output_file).read_text().split()
    assert len(names) == len(set(names)) == 100
    assert names == sorted(names)
    wait_until(lambda: not queue.jobs())
