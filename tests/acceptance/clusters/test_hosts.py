"""Hosts with folders of their own: nothing is shared, lines are cut."""

import subprocess
import sys
from pathlib import Path

import pytest

from prefect_parallel_run._threads import begin

from ...processes import command_line
from ..conftest import wait_until
from .test_scheduler import EXPECTED, names, verified


@pytest.fixture
def hosts(workshop, network, start_cluster):
    """Two hosts with a worker each. They share nothing of the test's folder, but have a copy of its inputs."""
    shared_by_nobody = [workshop.folder, workshop.scripts]
    made = [network.host(name, shared_by_nobody) for name in ("first", "second")]
    cluster = start_cluster(on=network)
    for host in made:
        subprocess.run(["cp", "-a", str(workshop.files), str(host.path(workshop.files).parent)], check=True)
        cluster.start_worker(host.name, on=host)
    with cluster.client() as client:
        client.wait_for_workers(2)
    return cluster, *made


def target(cluster):
    from prefect_parallel_run import ComputeTarget

    return ComputeTarget(address=cluster.address, allow_insecure=True)


def logged(host, workshop):
    """Calls of run() on a host."""
    path = host.path(workshop.log)
    return [line for line in path.read_text().splitlines() if line.startswith("run ")] if path.exists() else []


def open_door(host, workshop, number):
    """Open door *number* of scripts/counts.py on a host: the mini-batches that wait there continue."""
    host.path(f"{workshop.log}.door.{number}").touch()


def test_rows_and_logs_come_home(workshop, hosts):
    """From both hosts; the result is the one of a run on this machine."""
    cluster, first, second = hosts
    options = {"compute_target": target(cluster), "node_count": 2, "process_count_per_node": 2, "mini_batch_size": 2}
    run = begin(workshop.step("slow.py", "--sleep", "0", "--doors", "0", **options))
    wait_until(lambda: logged(first, workshop) and logged(second, workshop))  # else one of them may do all the work
    for host in (first, second):
        open_door(host, workshop, 0)
    result = run.result(600)
    assert names(result) == EXPECTED
    assert verified(result)
    assert len(logged(first, workshop)) + len(logged(second, workshop)) == 50
    for host in (first, second):
        wait_until(lambda host=host: not any("parallel_run" in command_line(p) for p in host.processes()))


def test_parts_are_written_where_the_rows_are(workshop, hosts):
    """No node shares the output: the flow process writes the parts, without a warning."""
    cluster, *_ = hosts
    fields = {"append_row_file_name": "names.txt", "append_row_max_file_size": 300}
    result = workshop.step(compute_target=target(cluster), node_count=2, **fields)()
    paths = sorted(Path(result.output_file).iterdir())
    assert len(paths) > 2
    assert "".join(path.read_text() for path in paths).split() == EXPECTED
    assert verified(result)


def test_large_rows_and_formats_come_home(workshop, hosts, monkeypatch):
    """In many pieces, with a header, and as Parquet."""
    cluster, *_ = hosts
    for limit in ("_SHUTDOWN_TIMEOUT", "_LOGS_TIMEOUT"):
        monkeypatch.setattr(f"prefect_parallel_run.dispatch.dispatcher.{limit}", 300.0)  # however busy this machine is
    script = workshop.folder / "code" / "large.py"
    script.parent.mkdir()
    script.write_text(
        "import os\nimport sys\n"
        "def run(mini_batch):\n    print('ran', len(mini_batch))\n"
        "    return [{'name': os.path.basename(path), 'text': 'x' * 1_000_000} for path in mini_batch]\n"
    )
    for kind in ("csv", "parquet"):
        options = {"append_row_format": kind, "source_directory": None, "mini_batch_size": 10}
        here = workshop.step(str(script), **options, output=workshop.folder / f"here-{kind}", name=f"here-{kind}")
        there = workshop.step(
            str(script),
            **options,
            compute_target=target(cluster),
            node_count=2,
            output=workshop.folder / f"there-{kind}",
            name=f"there-{kind}",
        )
        results = [here(), there()]
        contents = [Path(result.output_file).read_bytes() for result in results]
        assert contents[0] == contents[1]
        assert verified(results[1])
        logs = list((workshop.folder / f"there-{kind}").glob("_parallel_run/*/logs/*.stdout.txt"))
        assert sum(path.read_text().count("ran 10") for path in logs) == 10


def test_an_input_that_a_node_cannot_see_is_named(workshop, hosts):
    """With the node and the path; that node runs nothing, and nothing is published."""
    from prefect_parallel_run import InputError, OutputError

    cluster, _first, second = hosts
    subprocess.run(["rm", "-r", str(second.path(workshop.files))], check=True)
    arguments = ("--sleep", "0", "--doors", "0")  # the first host must not do all the work before the second says this
    with pytest.raises(InputError, match=rf"node tcp://{second.address}:\d+ \(host second\) cannot"):
        workshop.step("slow.py", *arguments, compute_target=target(cluster), node_count=2, run_max_try=1, error_threshold=0)()
    subprocess.run(["cp", "-a", str(workshop.files), str(second.path(workshop.files).parent)], check=True)
    with pytest.raises(OutputError, match="cannot access it, and the script writes to it"):
        workshop.step(compute_target=target(cluster), node_count=2, output_action="summary_only")()
    side = workshop.folder / "side"
    side.mkdir()
    with pytest.raises(InputError, match=f"input {side}: node"):
        workshop.step(compute_target=target(cluster), side_inputs={"model": str(side)})()
    assert not logged(second, workshop)
    assert not (workshop.output / "parallel_run_step.txt").exists()


def test_a_query_needs_a_shared_folder(workshop, hosts):
    """Its rows are in the run directory; the error names the file and the node."""
    import sqlite3

    from prefect_parallel_run import InputError, TabularDataset

    sqlite3.connect(workshop.folder / "shop.db").close()
    query = TabularDataset.from_sql_query("SELECT 1 AS n", f"sqlite:///{workshop.folder}/shop.db")
    step = workshop.step("rows_of_table.py", inputs=query, mini_batch_size="1MB", compute_target=target(hosts[0]))
    with pytest.raises(
        InputError, match=r"inputs/input_0.parquet: node .* cannot access it; use a folder that all nodes share"
    ):
        step()


def test_a_cut_line_costs_no_row(workshop, hosts):
    """The host that cannot be reached loses its work to the other, and ends what it runs; what it says later is void."""
    cluster, first, second = hosts
    step = workshop.step(
        "slow.py",
        *("--sleep", "0.5", "--doors", "8"),  # of each host: both have work until the line is cut
        compute_target=target(cluster),
        node_count=2,
        process_count_per_node=1,
        mini_batch_size=1,
    )
    run = begin(step)
    wait_until(lambda: len(logged(second, workshop)) > 5)
    second.cut()
    open_door(first, workshop, 8)
    result = run.result(600)
    assert len(names(result)) == 100
    assert verified(result)
    wait_until(lambda: not any("parallel_run" in command_line(p) for p in second.processes()))
    second.mend()
    cluster.start_worker("again", on=second)
    with cluster.client() as client:
        client.wait_for_workers(2)
    again = workshop.step(compute_target=target(cluster), node_count=2, output=workshop.folder / "again")()
    assert names(again) == EXPECTED


def test_a_flow_on_one_host_uses_the_others_by_python(workshop, hosts):
    """The entry script's interpreter may be another one, without anything of ours."""
    cluster, *_ = hosts
    step = workshop.step(compute_target=target(cluster), node_count=2, environment=sys.executable)
    assert names(step()) == EXPECTED
