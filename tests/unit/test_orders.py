"""Orders as values, and as lines that anybody may have written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run.runs.commands import LONGEST, Order, OrderRefusedError

ID = "0123456789abcdef" * 2


def line(**changes):
    facts = {"id": ID, "at": 1.5, "by": "ann@host/7", "driver": "d", "order": {"pause": {}}}
    return json.dumps({**facts, **changes}).encode()


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("pause", {}, "pause"),
        ("continue", {}, "continue"),
        (
            "limits",
            {"error_threshold": -1, "allowed_failed_percent": 2.5},
            "limits error_threshold=-1 allowed_failed_percent=2.5",
        ),
        ("processes", {"process_count_per_node": 3}, "processes process_count_per_node=3"),
    ],
)
def test_an_order_travels_as_a_line(kind, values, words):
    """And says what it is."""
    order = Order(id=ID, at=1.5, by="ann@host/7", driver="d", kind=kind, values=values)
    assert Order.from_line(order.to_line()) == order
    assert str(order) == words
    assert json.loads(order.what) == {kind: values}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[" * LONGEST, "is no JSON"),
        (b"[" * (LONGEST + 1), f"over {LONGEST} bytes"),
        (b'"pause"', "no object with an id"),
        (b"{}", "no object with an id"),
        (line(id=7), "no object with an id"),
        (line(id="../../etc/passwd"), "no object with an id"),
    ],
)
def test_what_is_no_order_has_no_id(wrong, words):
    """It is refused, and named by its beginning only."""
    with pytest.raises(OrderRefusedError, match=words) as caught:
        Order.from_line(wrong)
    assert caught.value.order is None
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"order": "pause"}, "accepted: one of pause, continue, limits, processes"),
        ({"order": {"pause": {}, "continue": {}}}, "accepted: one of pause"),
        ({"order": {"stop": {}}}, "'stop'; accepted: pause, continue, limits, processes"),
        ({"order": {"pause": {"for": 3}}}, "pause has 'for'; accepted: nothing"),
        ({"order": {"limits": {}}}, "accepted: one or more of error_threshold, allowed_failed_count, allowed_failed_percent"),
        ({"order": {"limits": {"run_max_try": 3}}}, "limits has 'run_max_try'"),
        ({"order": {"limits": {"error_threshold": -2}}}, "error_threshold is -2; accepted: a whole number, -1"),
        ({"order": {"limits": {"error_threshold": True}}}, "error_threshold is True"),
        ({"order": {"limits": {"error_threshold": 1.5}}}, "error_threshold is 1.5"),
        ({"order": {"limits": {"error_threshold": 10**400}}}, "error_threshold is 1000"),
        ({"order": {"limits": {"allowed_failed_percent": float("nan")}}}, "allowed_failed_percent is nan"),
        ({"order": {"limits": {"allowed_failed_percent": 101}}}, "accepted: a number from 0 to 100"),
        ({"order": {"processes": {"process_count_per_node": 0}}}, "accepted: a whole number from 1 to 1024"),
        ({"order": {"processes": {"process_count_per_node": 10**6}}}, "process_count_per_node is 1000000"),
        ({"by": "\x1b[2J"}, "by is '.x1b"),
        ({"by": "\ud800"}, "accepted: a printable text"),
        ({"driver": None}, "driver is None"),
        ({"at": "now"}, "at is 'now'; accepted: seconds"),
        ({"at": float("inf")}, "at is inf"),
        ({"more": 1}, "accepted: id, at, by, driver, order"),
    ],
)
def test_a_wrong_order_is_refused_by_its_id(changes, words):
    """So that whoever gave it is answered, with what is accepted."""
    with pytest.raises(OrderRefusedError, match=words) as caught:
        Order.from_line(line(**changes))
    assert caught.value.order == ID


@given(
    st.one_of(
        st.binary(max_size=300), st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps).map(str.encode)
    )
)
def test_whatever_stands_in_a_line_it_is_refused_or_an_order(text):
    """Never another error."""
    with pytest.raises(OrderRefusedError):
        Order.from_line(text)
