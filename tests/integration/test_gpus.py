"""GPUs through a real node and a real cluster, of a machine whose nvidia-smi says that it has some."""

import os
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from prefect_parallel_run.compute.base import Request
from prefect_parallel_run.compute.local import LocalTarget
from prefect_parallel_run.models import Receipt
from prefect_parallel_run.node import gpus
from prefect_parallel_run.node.gpus import visible_gpus
from prefect_parallel_run.node.node import Node
from prefect_parallel_run.node.slot import Work

from .conftest import wait_until


@pytest.fixture
def begun(bench):
    """Slot, number of the child in it, GPU and order of every process that has called init()."""

    def read():
        lines = [line.split() for line in bench.log.read_text().splitlines()] if bench.log.exists() else []
        return [(*line[2].split(".")[1:3], *line[3:]) for line in lines]

    return read


@pytest.fixture
def node(bench):
    """Makes nodes that run tells_gpu.py; all are closed."""
    made = []

    def make(*arguments, **changes):
        settings = bench.settings(
            "tells_gpu.py", "--log", str(bench.log), *arguments, **{"token": f"gpus-{os.getpid()}", "most_slots": 9, **changes}
        )
        made.append(Node(settings))
        return made[-1]

    yield make
    for each in made:
        each.close(graceful=False)


def variables(child):
    """Return the environment that a process was started with."""
    return Path(f"/proc/{child.pid}/environ").read_bytes().split(b"\0")


def test_nvidia_smi_is_called_once(nvidia_smi):
    """For all runs of a process."""
    nvidia_smi("two")
    assert [visible_gpus(os.environ) for _ in range(3)] == [("0", "1")] * 3
    assert nvidia_smi.runs() == 1


def test_mig_instances_have_names(nvidia_smi):
    """The whole GPU cannot be used beside them."""
    nvidia_smi("parts")
    parts = ("MIG-GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f/1/0", "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f")
    assert visible_gpus(os.environ) == (*parts, "1")


@pytest.mark.parametrize(
    ("listing", "end"), [("none", "exit 0"), ("two", "exit 9"), ("two", "printf '\\377'"), ("two", "kill -9 $$")]
)
def test_a_failing_nvidia_smi_lists_no_gpus(nvidia_smi, listing, end):
    """Images contain it that run on machines without a GPU too."""
    nvidia_smi(listing, end)
    assert visible_gpus(os.environ) == ()


def test_a_hanging_nvidia_smi_lists_no_gpus(nvidia_smi, monkeypatch):
    """It is killed."""
    monkeypatch.setattr(gpus, "_PATIENCE", 0.5)
    nvidia_smi("two", "exec sleep 600")
    assert visible_gpus(os.environ) == ()


def test_a_replacement_has_the_same_gpu(nvidia_smi, bench, files, node, begun):
    """There is no standby child: it would have to be started before its GPU is known."""
    nvidia_smi("two")
    made = node("--crash", ",".join(map(str, range(0, 40, 4))), slots=3)
    assert (made.facts.slots, made.facts.gpus) == (3, 2)
    wait_until(lambda: len(begun()) == 3)
    lines = [b"[%d,1,%b]\n" % (number, work) for number, work in enumerate(bench.works(files, 2))]
    works = [Work(number, 1, line) for number, line in enumerate(lines)]
    receipts = [
        Receipt(*receipt) for start in range(0, 48, 8) for receipt in made.run(start, works[start : start + 8]).receipts
    ]
    assert [receipt.mini_batch for receipt in receipts if receipt.outcome == "died"] == list(range(0, 40, 4))
    assert {(slot, gpu, order) for slot, _, gpu, order in begun()} == {
        ("0", "0", "PCI_BUS_ID"),
        ("1", "1", "PCI_BUS_ID"),
        ("2", "0", "PCI_BUS_ID"),
    }
    assert len(begun()) >= 3 + 9
    assert made._standby._started == 0


def test_a_node_with_a_gpu_has_one_process_by_default(nvidia_smi, bench, files, node, begun):
    """And a standby child if needed, since there is only one GPU."""
    nvidia_smi("two")
    made = node("--crash", "1", slots=None)
    assert (made.facts.slots, made.facts.gpus) == (1, 2)
    works = bench.works(files)
    made.run(0, [Work(number, 1, b"[%d,1,%b]\n" % (number, work)) for number, work in enumerate(works[:2])])
    for number in (2, 3):
        made.run(number, [Work(number, 1, b"[%d,1,%b]\n" % (number, works[number]))])
    wait_until(lambda: made._standby._startup is not None)
    assert b"CUDA_VISIBLE_DEVICES=0" in variables(made._standby._startup.child)
    assert {gpu for _, _, gpu, _ in begun()} == {"0"}


def test_added_slots_have_the_gpu_of_their_index(nvidia_smi, node, begun):
    """As if started at first; a standby child with one GPU no longer fits."""
    nvidia_smi("two")
    made = node(slots=1)
    assert made._standby._factory is not None
    made.resize(3, 1)
    wait_until(lambda: len(begun()) == 3)
    assert sorted((slot, gpu) for slot, _, gpu, _ in begun()) == [("0", "0"), ("1", "1"), ("2", "0")]
    assert made._standby._is_stopped
    made.resize(1, 2)
    made.resize(2, 3)
    wait_until(lambda: len(begun()) == 4)
    assert begun()[-1][0] == "3"
    assert begun()[-1][2] == "1"


@pytest.mark.parametrize(("chosen", "slots"), [("1,0", 1), ("", None)])
def test_a_user_set_variable_has_precedence(nvidia_smi, node, begun, chosen, slots):
    """For all processes; without a GPU there is one process per core."""
    nvidia_smi("two")
    made = node(slots=None, environment_variables={"CUDA_VISIBLE_DEVICES": chosen})
    assert made.facts.slots == (slots or min(made.facts.cores, 9))
    assert made._standby._factory is not None
    wait_until(lambda: len(begun()) == made.facts.slots)
    given = variables(made.slots.all[0]._child)
    assert f"CUDA_VISIBLE_DEVICES={chosen}".encode() in given
    assert not any(variable.startswith(b"CUDA_DEVICE_ORDER") for variable in given)


def test_hidden_gpus_are_not_used(nvidia_smi, monkeypatch, node):
    """For users who want only the processors."""
    nvidia_smi("two")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    facts = node(slots=None).facts
    assert (facts.slots, facts.gpus) == (min(facts.cores, 9), 0)
    assert nvidia_smi.runs() == 0


@pytest.mark.parametrize(("nodes", "expected"), [(1, {"0"}), (2, {"0", "1"}), (3, {"0", "1"})])
def test_local_nodes_share_the_gpus(nvidia_smi, bench, begun, nodes, expected):
    """One process per node; the replacement of a dead worker has the same share."""
    nvidia_smi("two")
    settings = Future()
    settings.set_result(bench.settings("tells_gpu.py", "--log", str(bench.log), most_slots=9))
    with LocalTarget().open(
        Request(nodes=nodes, at_least=None, slots=None, timeout=120), threading.Event(), settings
    ) as cluster:
        assert cluster.slots == 1
        wait_until(lambda: len(begun()) == nodes)
        assert {gpu for _, _, gpu, _ in begun()} == expected
        if nodes == 2:
            before = cluster.client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
            cluster.discard("1")
            wait_until(lambda: len(there := set(cluster.client.nthreads())) == 2 and there != set(before))
            assert set(cluster.client.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()) == {"0", "1"}
