"""Which process gets which GPU."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run.node.gpus import default_slots, node_environment, slot_environment, visible_gpus


@pytest.mark.parametrize(
    ("given_variable", "gpus"),
    [
        ("0", ("0",)),
        ("1,0", ("1", "0")),
        (" 3 , 2 ", ("3", "2")),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("0,-1,1", ("0",)),
        ("0,,1", ("0",)),
        ("1,x,2", ("1",)),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,1", ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "1")),
        ("MIG-GPU-8932f937-d72c/1/0", ("MIG-GPU-8932f937-d72c/1/0",)),
        ("²", ()),
    ],
)
def test_the_variable_says_what_may_be_used(given_variable, gpus):
    """Entries are kept as they are; CUDA stops at the first that is none."""
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": given_variable, "PATH": "/nowhere"}) == gpus


def test_a_machine_without_nvidia_smi_has_none():
    """Nothing is started to find that out."""
    assert visible_gpus({"PATH": "/nowhere"}) == ()


def test_without_a_gpu_nothing_is_set():
    """And every core has a process."""
    assert slot_environment(3, (), {}) == node_environment(3, 4, (), {}) == {}
    assert (default_slots(8, ()), default_slots(8, ("0", "1"))) == (8, 1)


@pytest.mark.parametrize(
    ("gpus", "environment", "order"),
    [
        (("0",), {}, "PCI_BUS_ID"),
        (("0",), {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, None),
        (("GPU-8932f937",), {}, None),
        (("MIG-8932f937",), {}, None),
    ],
)
def test_indices_are_counted_as_nvidia_smi_counts_them(gpus, environment, order):
    """Unless somebody says otherwise; a name needs no counting."""
    assert slot_environment(0, gpus, environment).get("CUDA_DEVICE_ORDER") == order
    assert node_environment(0, 1, gpus, environment).get("CUDA_DEVICE_ORDER") == order


@given(slots=st.integers(1, 20), gpus=st.integers(1, 8))
def test_slots_take_gpus_in_turn(slots, gpus):
    """One each, and no GPU has two processes more than another."""
    given_names = tuple(str(number) for number in range(gpus))
    taken = [slot_environment(number, given_names, {})["CUDA_VISIBLE_DEVICES"] for number in range(slots)]
    counts = [taken.count(name) for name in given_names]
    assert sum(counts) == slots
    assert max(counts) - min(counts) <= 1


@given(nodes=st.integers(1, 8), gpus=st.integers(1, 8))
def test_nodes_of_one_machine_share_its_gpus(nodes, gpus):
    """Every node has one; none is idle, and none is shared as long as there are enough."""
    given_names = tuple(str(number) for number in range(gpus))
    shares = [node_environment(number, nodes, given_names, {})["CUDA_VISIBLE_DEVICES"].split(",") for number in range(nodes)]
    assert all(shares)
    assert {name for share in shares for name in share} == set(given_names)
    if gpus >= nodes:
        assert sum(map(len, shares)) == gpus
