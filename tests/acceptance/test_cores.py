"""The threads of every process: its share of the node's cores, unless the user sets them."""

import json
from pathlib import Path

import pytest

from prefect_parallel_run.node.cores import VARIABLES, usable_cores


@pytest.fixture(autouse=True)
def without_limits(monkeypatch):
    """No limit is set in the environment of the flow process."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def limits(workshop, **fields):
    """The limits that every process of a step had."""
    result = workshop.step("tells_threads.py", **fields)()
    (found,) = set(Path(result.output_file).read_text().splitlines())
    return json.loads(found)


def test_processes_share_the_cores_of_this_machine(workshop, caplog):
    """The log of the node and the report say so."""
    share = str(max(1, usable_cores() // 2))
    assert limits(workshop, process_count_per_node=2) == dict.fromkeys(VARIABLES, share)
    assert f"threads per process: {share}" in caplog.text
    (report,) = workshop.output.glob("_parallel_run/*/report.html")
    assert f"Threads per process: {share}." in report.read_text()


def test_what_the_user_sets_has_precedence(workshop, monkeypatch):
    """The script's variables over the field, the field over the flow's environment, which has precedence over the share."""
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    found = limits(workshop, process_count_per_node=64, mini_batch_size=100, environment_variables={"MKL_NUM_THREADS": "7"})
    others = ("VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS")
    assert found == {"OMP_NUM_THREADS": "5", "MKL_NUM_THREADS": "7", **dict.fromkeys(others, str(usable_cores()))}
    variables = {"MKL_NUM_THREADS": "7"}
    found = limits(workshop, threads_per_process=3, environment_variables=variables, output=workshop.folder / "field")
    assert found == {**dict.fromkeys(VARIABLES, "3"), **variables}


def test_the_limit_of_a_nanny_is_for_its_worker_alone(workshop):
    """A worker with four threads has four cores."""
    from distributed import LocalCluster

    options = {"n_workers": 1, "threads_per_worker": 4, "processes": True, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(host="127.0.0.1", memory_limit=0, **options) as cluster:
        workshop.target = cluster.scheduler_address
        assert limits(workshop, process_count_per_node=2) == dict.fromkeys(VARIABLES, "2")
