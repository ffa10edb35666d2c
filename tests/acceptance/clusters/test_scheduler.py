"""Steps on a Dask cluster that others run: used, and left as it was."""

import json
import logging
import os
import sys
from pathlib import Path

import pytest

from prefect_parallel_run._threads import begin

from ...processes import command_line
from ..conftest import wait_until
from .dask_processes import DaskCluster


def names(result):
    return Path(result.output_file).read_text().split()


EXPECTED = [f"f{number:03d}.txt" for number in range(100)]


def verified(result):
    from prefect_parallel_run.execution.verify import problems
    from prefect_parallel_run.runs.run_directory import RunDirectory

    return list(problems(RunDirectory(Path(result.run_directory)))) == []


def facts(cluster: DaskCluster):
    """What runs on its workers that we have started."""
    return [process for process in cluster.processes() if "prefect_parallel_run" in command_line(process)]


@pytest.mark.parametrize("by", ["address", "file", "ComputeTarget"])
def test_a_step_runs_beside_other_people(workshop, start_cluster, other_user, by):
    """On as many nodes as it asks for, each with its processes; nothing of theirs is touched, nothing of ours stays."""
    from prefect_parallel_run import ComputeTarget

    cluster = start_cluster("a", "b", "c")
    user = other_user(cluster)
    with cluster.client() as client:
        client.wait_for_workers(3)
    user.settings = user.read_settings()  # now that all are there
    target = {
        "address": cluster.address,
        "file": str(cluster.scheduler_file),
        "ComputeTarget": ComputeTarget(address=cluster.address),
    }[by]
    words = ("--log", str(workshop.log), "--processes", "4")  # all of them: else the work may be done before the last is there
    result = workshop.step("gathers.py", *words, compute_target=target, node_count=2, process_count_per_node=2)()
    assert names(result) == EXPECTED
    assert verified(result)
    assert workshop.invocations() == [(number, 1) for number in range(10)]
    assert sum(line.startswith("init ") for line in workshop.log.read_text().splitlines()) == 4
    wait_until(lambda: not facts(cluster))
    user.finish()


def test_a_worker_that_others_keep_busy_keeps_nothing_from_us(workshop, start_cluster, other_user):
    """What waits there for a thread is run elsewhere, in the end."""
    cluster = start_cluster("a")
    user = other_user(cluster)
    cluster.start_worker("b")
    with cluster.client() as client:
        client.wait_for_workers(2)
    user.settings = user.read_settings()
    result = workshop.step(compute_target=cluster.address, node_count=2, process_count_per_node=1)()
    assert names(result) == EXPECTED
    assert verified(result)
    assert workshop.invocations() == [(number, 1) for number in range(10)]
    user.finish()


def test_fewer_nodes_than_asked(workshop, start_cluster, caplog):
    """Those that are there begin after node_start_timeout, with a warning; one that comes later is used."""
    cluster = start_cluster("a")
    with cluster.client() as client:
        client.wait_for_workers(1)
    gate = workshop.folder / "open"
    step = workshop.step(
        "gated.py",
        *("--log", str(workshop.log), "--gate", "3", "--open", str(gate)),
        compute_target=cluster.address,
        node_count=2,
        process_count_per_node=1,
        node_start_timeout=1,
        mini_batch_size=5,
    )
    with caplog.at_level(logging.INFO):
        run = begin(step)
        wait_until(lambda: "starting with 1 of 2 nodes" in caplog.text)
        cluster.start_worker("late")
        wait_until(lambda: "node-1 opened" in caplog.text)
        gate.touch()
        result = run.result(600)
    assert names(result) == EXPECTED
    assert verified(result)


def test_a_node_that_cannot_start_is_reported_without_a_lease(workshop, start_cluster, caplog):
    """A paced step sends mini-batches to idle processes only: here, the first of them waits for the report."""
    cluster, gate = start_cluster("a"), workshop.folder / "open"
    settings = {"node_count": 2, "min_nodes": 1, "process_count_per_node": 1}
    settings |= {"mini_batches_per_minute": 600, "compute_target": cluster.address}
    step = workshop.step("one_node_starts.py", "--open", str(gate), **settings)
    with caplog.at_level(logging.INFO):
        run = begin(step)
        wait_until(lambda: "node-0 opened" in caplog.text)
        cluster.start_worker("b")
        try:
            wait_until(lambda: "a process on node-1 could not start the entry script (init): OSError: no GPU" in caplog.text)
        finally:
            gate.touch()
        assert names(run.result(600)) == EXPECTED


def test_min_nodes_begins_at_once(workshop, start_cluster):
    """However long node_start_timeout is."""
    cluster = start_cluster("a")
    step = workshop.step(compute_target=cluster.address, node_count=5, min_nodes=1, node_start_timeout=10_000)
    assert names(step()) == EXPECTED


def test_no_node_and_no_scheduler(workshop, start_cluster, tmp_path):
    """Both end in bounded time with words that say which it was."""
    from prefect_parallel_run import ComputeTargetError

    cluster = start_cluster()
    with pytest.raises(ComputeTargetError, match="no worker joined within node_start_timeout = 1 s"):
        workshop.step(compute_target=cluster.address, node_start_timeout=1, run_max_try=1)()
    with pytest.raises(ComputeTargetError, match="cannot read the scheduler file: No such file"):
        workshop.step(compute_target=str(tmp_path / "none.json"), run_max_try=1)()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("tcp://192.0.2.7:8786", "is unencrypted and on another host; use tls:// or allow_insecure=True"),
        ("cpu-cluster", "compute_target: expected 'local', an address"),
        ("no_such_package.Cluster", "install the package that provides no_such_package"),
        ("distributed.NoCluster", "module distributed has no attribute NoCluster"),
    ],
)
def test_targets_that_are_none(workshop, target, words):
    """A wrong configuration, not a failure that a retry could mend."""
    with pytest.raises(ValueError, match=words):
        workshop.step(compute_target=target)()


def test_a_killed_worker_costs_no_row(workshop, start_cluster, scripts):
    """Its nanny starts another one, which is used; nothing is lost or doubled."""
    cluster = start_cluster("a", "b")
    arguments = ("--sleep", "0.05", "--doors", "30")  # so that there is work until the worker is killed
    options = {"compute_target": cluster.address, "node_count": 2, "process_count_per_node": 1, "mini_batch_size": 1}
    run = begin(workshop.step("slow.py", *arguments, **options))
    wait_until(lambda: len(workshop.invocations()) > 20)
    worker = next(p for p in cluster.workers["a"].tree() if "spawn_main" in command_line(p))
    worker.kill()
    workshop.open_door(30)
    result = run.result(600)
    assert len(names(result)) == 100
    assert sorted(names(result)) == names(result)
    assert verified(result)


def test_a_killed_scheduler_ends_the_step_and_its_processes(workshop, start_cluster):
    """In bounded time, with an error that a retry may mend; the run can be gone on with elsewhere, and is."""
    from prefect_parallel_run import ComputeTargetError

    cluster = start_cluster("a")
    options = {"process_count_per_node": 1, "mini_batch_size": 1, "run_max_try": 1}
    arguments = ("--sleep", "0.05", "--doors", "30")  # so that there is work until the scheduler is killed
    run = begin(workshop.step("slow.py", *arguments, compute_target=cluster.address, **options))
    wait_until(lambda: len(workshop.invocations()) > 20)
    cluster.scheduler.kill()
    with pytest.raises(ComputeTargetError):
        run.result(600)
    wait_until(lambda: not facts(cluster))
    done = len({index for index, _ in workshop.invocations()})
    workshop.open_door(30)
    result = workshop.step("slow.py", *arguments, **options)()
    assert len(names(result)) == 100
    assert len(workshop.invocations()) < 100 + done
    assert verified(result)


def test_a_worker_without_our_package_is_told_so(workshop, start_cluster, tmp_path, monkeypatch):
    """By its address, and what to do."""
    from prefect_parallel_run import ComputeTargetError

    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'prefect_parallel_run':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(hide))
        cluster = start_cluster("a")
        with cluster.client() as client:
            client.wait_for_workers(1)
    with pytest.raises(ComputeTargetError, match="install the flow process's version there"):
        workshop.step(compute_target=cluster.address, run_max_try=1)()


def test_an_environment_is_built_there(workshop, start_cluster):
    """With the installer's own words, and the node, where that fails."""
    from prefect_parallel_run import Environment, EnvironmentSetupError

    cluster = start_cluster("a")
    wrong = Environment(requirements=["no-such-package-of-anybody==1"])
    with pytest.raises(EnvironmentSetupError, match=r"(?s)on node tcp://.*no-such-package-of-anybody"):
        workshop.step(compute_target=cluster.address, environment=wrong)()
    right = Environment(requirements=["iniconfig==2.0.0"])
    script = workshop.folder / "code" / "version.py"
    script.parent.mkdir()
    script.write_text(
        "from importlib.metadata import version\ndef run(mini_batch):\n    return [version('iniconfig')] * len(mini_batch)\n"
    )
    step = workshop.step(str(script), compute_target=cluster.address, environment=right, source_directory=None)
    assert set(names(step())) == {"2.0.0"}
    local = workshop.step(str(script), environment=right, source_directory=None, output=workshop.folder / "local")
    assert set(names(local())) == {"2.0.0"}


def test_the_script_travels(workshop, start_cluster):
    """Nodes run the bundle, whatever happens to the folder; a changed file makes another one."""
    cluster = start_cluster("a")
    folder = workshop.folder / "code"
    (folder / "helpers").mkdir(parents=True)
    (folder / "helpers" / "__init__.py").write_text("WORD = 'one'\n")
    script = "import os\nfrom helpers import WORD\ndef run(mini_batch):\n    return [f'{WORD} {__file__}'] * len(mini_batch)\n"
    (folder / "score.py").write_text(script)
    step = workshop.step("score.py", compute_target=cluster.address, source_directory=str(folder), process_count_per_node=1)
    first = set(Path(step().output_file).read_text().splitlines())
    (folder / "helpers" / "__init__.py").write_text("WORD = 'two'\n")
    second = set(Path(step().output_file).read_text().splitlines())
    assert {line.split()[0] for line in first} == {"one"}
    assert {line.split()[0] for line in second} == {"two"}
    assert not any(str(folder) in line for line in first | second)
    assert len({line.split()[1] for line in first | second}) == 2


def test_a_flow_process_that_dies_leaves_nothing_on_the_workers(workshop, start_cluster, monkeypatch):
    """They stay when it goes, so nodes find out by themselves."""
    import subprocess

    from prefect.settings import PREFECT_API_URL

    cluster = start_cluster("a")
    code = (
        "from prefect_parallel_run import *\n"
        f"config = ParallelRunConfig(source_directory={str(workshop.scripts)!r}, entry_script='slow.py', error_threshold=-1,\n"
        f"    output_action='append_row', mini_batch_size=1, process_count_per_node=1, compute_target={cluster.address!r})\n"
        f"ParallelRunStep('dies', config, inputs={str(workshop.files)!r}, output={str(workshop.output)!r},\n"
        f"    arguments=['--log', {str(workshop.log)!r}, '--sleep', '0.05', '--doors', '10'])()\n"
    )
    server = {"PREFECT_API_URL": PREFECT_API_URL.value()}  # the session's: one of its own would outlive it
    flow = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **server})
    wait_until(lambda: len(workshop.invocations()) > 5)
    assert facts(cluster)
    flow.kill()
    flow.wait()
    wait_until(lambda: not facts(cluster))


def test_the_cluster_around_a_step_is_used(workshop):
    """Submitted to Dask, or called in a flow that has a DaskTaskRunner: its workers start the children."""
    from prefect import flow
    from prefect.context import FlowRunContext
    from prefect_dask import DaskTaskRunner

    script = workshop.folder / "parents.py"
    script.write_text(
        "import os\ndef run(mini_batch):\n    return [f'{os.path.basename(p)} {os.getppid()}' for p in mini_batch]\n"
    )
    options = {"node_count": 2, "process_count_per_node": 1, "source_directory": str(workshop.folder)}
    step = workshop.step(script.name, **options)
    other = workshop.step(script.name, name="other", output=workshop.folder / "other", **options)
    quiet = {"dashboard_address": "127.0.0.1:0", "n_workers": 2, "threads_per_worker": 1}

    @flow(task_runner=DaskTaskRunner(cluster_kwargs=quiet))
    def composed():
        workers = FlowRunContext.get().task_runner.client.run(os.getpid).values()
        submitted = step.submit()
        return submitted.result(), other(), set(workers)

    *results, workers = composed()
    for result in results:
        rows = [line.split() for line in Path(result.output_file).read_text().splitlines()]
        assert [name for name, _ in rows] == EXPECTED
        assert {int(parent) for _, parent in rows} <= workers
        assert verified(result)
        nodes = json.loads(Path(result.run_directory, "receipt.json").read_text())
        assert nodes["items"]["succeeded"] == 100
