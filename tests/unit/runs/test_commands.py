"""Commands for a running step: as values, and as lines that any user may have written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run.runs.commands import LONGEST, Command, CommandRejectedError

ID = "0123456789abcdef" * 2


def line(**changes):
    facts = {"id": ID, "at": 1.5, "by": "ann@host/7", "driver": "d", "order": {"pause": {}}}
    return json.dumps({**facts, **changes}).encode()


@pytest.mark.parametrize(
    ("kind", "values", "message"),
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
def test_a_command_survives_the_round_trip_as_a_line(kind, values, message):
    """Its text form names kind and values."""
    order = Command(id=ID, at=1.5, by="ann@host/7", execution_id="d", kind=kind, values=values)
    assert Command.from_line(order.to_line()) == order
    assert str(order) == message
    assert json.loads(order.what) == {kind: values}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * LONGEST, "is not JSON"),
        (b"[" * (LONGEST + 1), f"at most {LONGEST} bytes"),
        (b'"pause"', "not a JSON object with an id"),
        (b"{}", "not a JSON object with an id"),
        (line(id=7), "not a JSON object with an id"),
        (line(id="../../etc/passwd"), "not a JSON object with an id"),
    ],
)
def test_an_unreadable_line_is_rejected_without_an_id(wrong, message):
    """The error quotes only its first part."""
    with pytest.raises(CommandRejectedError, match=message) as caught:
        Command.from_line(wrong)
    assert caught.value.command_id is None
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": "pause"}, "order: expected one of pause, continue, limits, processes with its values, got 'pause'"),
        ({"order": {"pause": {}, "continue": {}}}, "order: expected one of pause"),
        ({"order": {"stop": {}}}, "order: expected one of pause, continue, limits, processes, got 'stop'"),
        ({"order": {"pause": {"for": 3}}}, "pause: expected no values, got 'for'"),
        ({"order": {"limits": {}}}, "expected one or more of error_threshold, allowed_failed_count, allowed_failed_percent"),
        ({"order": {"limits": {"run_max_try": 3}}}, "limits: expected .*, got 'run_max_try'"),
        ({"order": {"limits": {"error_threshold": -2}}}, "error_threshold: expected an integer, -1 .*, got -2"),
        ({"order": {"limits": {"error_threshold": True}}}, "error_threshold: .* got True"),
        ({"order": {"limits": {"error_threshold": 1.5}}}, "error_threshold: .* got 1.5"),
        ({"order": {"limits": {"error_threshold": 10**400}}}, "error_threshold: .* got 1000"),
        ({"order": {"limits": {"allowed_failed_percent": float("nan")}}}, "allowed_failed_percent: .* got nan"),
        ({"order": {"limits": {"allowed_failed_percent": 101}}}, "expected a number from 0 to 100"),
        ({"order": {"processes": {"process_count_per_node": 0}}}, "expected an integer from 1 to 1024, got 0"),
        ({"order": {"processes": {"process_count_per_node": 10**6}}}, "process_count_per_node: .* got 1000000"),
        ({"by": "\x1b[2J"}, "by: .* got '.x1b"),
        ({"by": "\ud800"}, "by: expected a printable string"),
        ({"driver": None}, "driver: .* got None"),
        ({"at": "now"}, "at: expected seconds, got 'now'"),
        ({"at": float("inf")}, "at: .* got inf"),
        ({"more": 1}, "expected the keys id, at, by, driver, order"),
    ],
)
def test_an_invalid_command_is_rejected_with_its_id(changes, message):
    """The sender can then be answered with what is expected."""
    with pytest.raises(CommandRejectedError, match=message) as caught:
        Command.from_line(line(**changes))
    assert caught.value.command_id == ID


@given(
    st.one_of(
        st.binary(max_size=300), st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps).map(str.encode)
    )
)
def test_arbitrary_bytes_raise_only_the_rejection_error(text):
    """Any other error would stop the flow process."""
    with pytest.raises(CommandRejectedError):
        Command.from_line(text)
