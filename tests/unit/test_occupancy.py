"""Nodes, their slots and the leases with them stay consistent, whatever comes in which order."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_parallel_run.dispatch.events import LeaseFinished, NodeResized, SlotReady
from prefect_parallel_run.dispatch.slot_accounting import SlotAccounting
from prefect_parallel_run.models import Lease

NODES = ("a", "b", "c")


def lease(number, node):
    return Lease(id=number, node=node, start=number, stop=number + 1, attempt=1, piece=None)


@settings(max_examples=200)
@given(data=st.data())
def test_every_lease_is_with_one_node_and_slots_add_up(data):
    occupancy, number, resizings = SlotAccounting(), 0, 0
    for _ in range(data.draw(st.integers(1, 40))):
        node = data.draw(st.sampled_from(NODES))
        act = data.draw(st.sampled_from(["join", "lose", "send", "change", "home", "ready", "resize"]))
        known = node in occupancy.nodes
        if act == "join" and not known:
            occupancy.join(node, data.draw(st.integers(0, 4)))
        elif act == "lose":
            before = [one for one in occupancy.leases.values() if one.node == node]
            assert [one for one, _ in occupancy.lose(node)] == before
        elif act == "send" and known:
            number += 1
            occupancy.send(lease(number, node))
        elif act == "change" and occupancy.leases:
            one = data.draw(st.sampled_from(list(occupancy.leases.values())))
            occupancy.change(replace(one, stop=one.start))
            assert occupancy.leases[one.id].stop == one.start
        elif act == "home" and number:
            chosen = data.draw(st.integers(1, number))
            was_out = chosen in occupancy.leases
            home = occupancy.take_home(LeaseFinished(chosen, [], data.draw(st.integers(0, 4)), resizings))
            assert (home is not None) == was_out
            assert chosen not in occupancy.leases
        elif act == "ready":
            occupancy.note_ready(SlotReady(node, data.draw(st.integers(0, resizings + 1))))
        elif act == "resize":
            resizings += 1
            leaving = tuple(one.id for one in occupancy.leases.values() if one.node == node)[:1]
            occupancy.resize(NodeResized(node, data.draw(st.integers(0, 4)), 0, resizings, leaving))
        nodes = occupancy._nodes
        assert sorted(occupancy.leases) == sorted(id_ for one in nodes.values() for id_ in one.leases)
        assert all(occupancy.leases[id_] == one for node in nodes.values() for id_, one in node.leases.items())
        assert occupancy.slots == sum(one.slots for one in nodes.values())
        assert occupancy.has_slots == (occupancy.slots > 0)
        assert all(0 < free <= nodes[name].slots for name, free in occupancy.free().items())
        assert set(occupancy.idle_nodes) == {name for name, one in nodes.items() if not one.leases}


def test_leases_that_came_first_have_begun():
    """As many as there are slots that are ready; those of slots that go have too."""
    occupancy = SlotAccounting()
    occupancy.join("a", 2)
    occupancy.note_ready(SlotReady("a", 0))
    for number in (1, 2, 3):
        occupancy.send(lease(number, "a"))
    occupancy.resize(NodeResized("a", 1, 0, 1, leaving=(1,)))
    occupancy.note_ready(SlotReady("a", 1))
    assert [(one.id, has_begun) for one, has_begun in occupancy.lose("a")] == [(1, True), (2, True), (3, False)]


def test_the_least_loaded_is_found():
    """A node without slots has no room."""
    occupancy = SlotAccounting()
    assert occupancy.least_loaded() is None
    for node, slots in (("a", 1), ("b", 2), ("c", 0)):
        occupancy.join(node, slots)
    occupancy.send(lease(1, "a"))
    assert occupancy.least_loaded() == (0.0, "b")
    occupancy.send(lease(2, "b"))
    assert occupancy.least_loaded() == (0.5, "b")
    occupancy.lose("b")
    assert occupancy.least_loaded() == (1.0, "a")
    assert occupancy.is_overfull("a") is False
