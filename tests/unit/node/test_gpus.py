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
def test_cuda_visible_devices_is_respected(given_variable, gpus):
    """Entries are unchanged; CUDA stops at the first invalid one."""
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": given_variable, "PATH": "/nowhere"}) == gpus


def test_without_nvidia_smi_there_are_no_gpus():
    """No process is started to find out."""
    assert visible_gpus({"PATH": "/nowhere"}) == ()


def test_without_gpus_no_variable_is_set():
    """And there is one process per core."""
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
def test_indices_have_the_order_of_nvidia_smi(gpus, environment, order):
    """Unless the user sets an order; names need none."""
    assert slot_environment(0, gpus, environment).get("CUDA_DEVICE_ORDER") == order
    assert node_environment(0, 1, gpus, environment).get("CUDA_DEVICE_ORDER") == order


@given(slots=st.integers(1, 20), gpus=st.integers(1, 8))
def test_slots_share_gpus_in_turn(slots, gpus):
    """The numbers of processes per GPU differ by one at most."""
    given_names = tuple(str(number) for number in range(gpus))
    taken = [slot_environment(number, given_names, {})["CUDA_VISIBLE_DEVICES"] for number in range(slots)]
    counts = [taken.count(name) for name in given_names]
    assert sum(counts) == slots
    assert max(counts) - min(counts) <= 1


@given(nodes=st.integers(1, 8), gpus=st.integers(1, 8))
def test_nodes_of_one_machine_share_its_gpus(nodes, gpus):
    """Every node has one; none is idle or shared as long as there are enough."""
    given_names = tuple(str(number) for number in range(gpus))
    shares = [node_environment(number, nodes, given_names, {})["CUDA_VISIBLE_DEVICES"].split(",") for number in range(nodes)]
    assert all(shares)
    assert {name for share in shares for name in share} == set(given_names)
    if gpus >= nodes:
        assert sum(map(len, shares)) == gpus
