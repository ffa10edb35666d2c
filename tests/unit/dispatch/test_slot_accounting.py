"""Nodes, slots and leases stay consistent for any order of events."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_parallel_run.dispatch.events import LeaseFinished, NodeResized, SlotReady, SlotUnusable
from prefect_parallel_run.dispatch.leases import SlotAccounting
from prefect_parallel_run.models import Lease
from prefect_parallel_run.node.child_startup import StartFailure

NODES = ("a", "b", "c")
FAILURE = StartFailure("init", "OSError", "no GPU", "")


def lease(number, node):
    return Lease(id=number, node=node, start=number, stop=number + 1, attempt=1, piece=None)


@settings(max_examples=200)
@given(data=st.data())
def test_every_lease_has_one_node_and_slots_add_up(data):
    accounting, number, resizings, usable = SlotAccounting(), 0, 0, {}
    for _ in range(data.draw(st.integers(1, 40))):
        node = data.draw(st.sampled_from(NODES))
        action = data.draw(st.sampled_from(["join", "lose", "send", "change", "finished", "ready", "unusable", "resize"]))
        known = node in accounting.nodes
        if action == "join" and not known:
            accounting.add_node(node, data.draw(st.integers(0, 4)))
        elif action == "lose":
            before = [entry for entry in accounting.leases.values() if entry.node == node]
            assert [entry for entry, _ in accounting.remove_node(node)] == before
        elif action == "send" and known:
            number += 1
            accounting.add_lease(lease(number, node))
        elif action == "change" and accounting.leases:
            entry = data.draw(st.sampled_from(list(accounting.leases.values())))
            accounting.replace_lease(replace(entry, stop=entry.start))
            assert accounting.leases[entry.id].stop == entry.start
        elif action == "finished" and number:
            chosen = data.draw(st.integers(1, number))
            was_out = chosen in accounting.leases
            finished = accounting.complete(LeaseFinished(chosen, [], data.draw(st.integers(0, 4)), resizings))
            assert (finished is not None) == was_out
            assert chosen not in accounting.leases
        elif action == "ready":
            accounting.record_ready(SlotReady(node, data.draw(st.integers(0, resizings + 1))))
        elif action == "unusable":
            slots, as_of = data.draw(st.integers(0, 4)), data.draw(st.integers(0, resizings + 1))
            usable[node, as_of] = min(slots, usable.get((node, as_of), slots))
            accounting.record_unusable(SlotUnusable(node, slots, FAILURE, as_of))
        elif action == "resize":
            resizings += 1
            leaving = tuple(entry.id for entry in accounting.leases.values() if entry.node == node)[:1]
            accounting.resize(NodeResized(node, data.draw(st.integers(0, 4)), 0, resizings, leaving))
        nodes = accounting.nodes
        assert sorted(accounting.leases) == sorted(id_ for entry in nodes.values() for id_ in entry.leases)
        assert all(accounting.leases[id_] == entry for node in nodes.values() for id_, entry in node.leases.items())
        assert accounting.slots == sum(entry.slots for entry in nodes.values())
        assert all(entry.slots <= usable.get((name, entry.as_of), entry.slots) for name, entry in nodes.items())
        assert accounting.has_slots == (accounting.slots > 0)
        assert all(0 < free <= nodes[name].slots for name, free in accounting.free().items())
        assert set(accounting.idle_nodes) == {name for name, entry in nodes.items() if not entry.leases}
        idle_slots = [nodes[name].slots for name in accounting.idle_nodes]
        assert idle_slots == sorted(idle_slots)  # a node whose processes all failed is released first


def test_the_first_leases_of_a_node_have_started():
    """As many as ready slots, and those on removed slots."""
    accounting = SlotAccounting()
    accounting.add_node("a", 2)
    accounting.record_ready(SlotReady("a", 0))
    for number in (1, 2, 3):
        accounting.add_lease(lease(number, "a"))
    accounting.resize(NodeResized("a", 1, 0, 1, leaving=(1,)))
    accounting.record_ready(SlotReady("a", 1))
    assert [(entry.id, has_begun) for entry, has_begun in accounting.remove_node("a")] == [(1, True), (2, True), (3, False)]


def test_least_loaded_returns_the_node_with_most_room():
    """Nodes without slots are never returned."""
    accounting = SlotAccounting()
    assert accounting.least_loaded() is None
    for node, slots in (("a", 1), ("b", 2), ("c", 0)):
        accounting.add_node(node, slots)
    accounting.add_lease(lease(1, "a"))
    assert accounting.least_loaded() == (0.0, "b")
    accounting.add_lease(lease(2, "b"))
    assert accounting.least_loaded() == (0.5, "b")
    accounting.remove_node("b")
    assert accounting.least_loaded() == (1.0, "a")
    assert accounting.is_overfull("a") is False
