"""Control commands are applied, rejected, recorded and acknowledged; without a run."""

import json
import sqlite3
import uuid
from contextlib import closing

import pytest

from prefect_parallel_run import ParallelRunConfig
from prefect_parallel_run.dispatch.events import Continued, LimitsChanged, Paused, ProcessesChanged
from prefect_parallel_run.execution.control import Control
from prefect_parallel_run.models import FailureLimits
from prefect_parallel_run.runs.commands import Command, append
from prefect_parallel_run.runs.events import CommandHandled, RunContinued, RunPaused, Warned
from prefect_parallel_run.runs.executions import Overrides
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory, write_json


class Desk:
    """A run directory with one execution after the other; the test sends commands and polls them."""

    def __init__(self, folder, scripts):
        self.directory = RunDirectory(folder)
        self.directory.make()
        self.config = ParallelRunConfig(
            source_directory=str(scripts), entry_script="echo.py", error_threshold=5, output_action="append_row"
        )
        write_json(self.directory.description, {"config": self.config.model_dump(mode="json")})
        self.ledger = Ledger.create(self.directory.ledger, [1])
        self.said, self.driver = [], ""
        self.drive()

    def drive(self, **fields):
        """Start a new execution, possibly with another configuration."""
        self.config, self.driver = self.config.model_copy(update=fields), uuid.uuid4().hex
        self.control = Control(self.directory, self.driver, self.ledger, self.config, self.hear)

    def order(self, kind, *, driver=None, **values):
        order = Command(
            id=uuid.uuid4().hex, at=1.0, by="ann@host/7", execution_id=driver or self.driver, kind=kind, values=values
        )
        append(self.directory.commands, order.to_line())
        return order

    def look(self):
        self.control._next_poll = 0.0
        return list(self.control.events())

    def answers(self):
        lines = self.directory.answers.read_text().splitlines() if self.directory.answers.exists() else []
        return {facts["id"]: (facts["applied"], facts["answer"]) for line in lines if line for facts in [json.loads(line)]}

    def hear(self, event):
        match event:
            case CommandHandled(command, sender, answer):
                self.said.append((command, sender, answer))
            case RunPaused() | RunContinued():
                self.said.append(isinstance(event, RunPaused))
            case Warned(text):
                self.said.append(text)


@pytest.fixture
def desk(tmp_path, scripts):
    made = Desk(tmp_path / "run", scripts)
    yield made
    made.ledger.close()


def test_pause_and_continue_are_applied_recorded_and_acknowledged(desk):
    """In order, each once; a second pause changes nothing."""
    pause, again, go_on = desk.order("pause"), desk.order("pause"), desk.order("continue")
    assert desk.look() == [Paused(), Continued()]
    assert desk.look() == []
    assert desk.said[0] == ("pause", "ann@host/7", "no mini-batch starts until `control continue`")
    assert [word for word in desk.said if isinstance(word, bool)] == [True, False]
    assert {order: applied for order, (applied, _) in desk.answers().items()} == {
        pause.id: True,
        again.id: True,
        go_on.id: True,
    }
    noted = {order.id: order for order in desk.ledger.commands()}
    assert json.loads(noted[pause.id].what) == {"pause": {}}
    assert (noted[pause.id].at, noted[pause.id].by) == (1.0, "ann@host/7")
    assert noted[pause.id].applied_at > 1.0
    assert desk.ledger.metadata()["paused"] == "0"


def test_changed_limits_outlive_the_execution(desk):
    """Only the named limits change; they apply to a resumed run with the same configuration."""
    desk.order("limits", error_threshold=-1)
    assert desk.look() == [LimitsChanged(FailureLimits())]
    desk.order("limits", allowed_failed_count=2)
    assert desk.look() == [LimitsChanged(FailureLimits(allowed_failed_count=2))]
    desk.drive()
    assert desk.look() == []
    adjusted = Overrides.of_metadata(desk.ledger.metadata()).of(desk.config)
    assert (adjusted.error_threshold, adjusted.allowed_failed_count) == (-1, 2)
    desk.order("limits", error_threshold=7)
    assert desk.look() == [LimitsChanged(FailureLimits(error_threshold=7, allowed_failed_count=2))]


def test_the_pace_is_changed_like_a_limit(desk):
    """It outlives the execution, and the answer names it; -1 ends it."""
    desk.order("limits", mini_batches_per_minute=90)
    assert desk.look() == [LimitsChanged(FailureLimits(error_threshold=5), 90)]
    desk.drive()
    assert Overrides.of_metadata(desk.ledger.metadata()).of(desk.config).mini_batches_per_minute == 90
    desk.order("limits", mini_batches_per_minute=-1)
    desk.look()
    assert [words[2].rpartition(", ")[2] for words in desk.said] == [
        "mini_batches_per_minute 90",
        "mini_batches_per_minute no limit",
    ]


def test_an_edited_configuration_overrides_commands(desk):
    """It wins over the original configuration and over commands."""
    desk.drive(error_threshold=6)  # the flow has been edited
    desk.order("limits", error_threshold=9)
    desk.look()
    adjustments = Overrides.of_metadata(desk.ledger.metadata())
    for field, holds in ((5, 9), (6, 9), (7, 7)):
        assert adjustments.of(desk.config.model_copy(update={"error_threshold": field})).error_threshold == holds
    assert not adjustments.without({"error_threshold"})


def test_acknowledgements_state_the_new_values(desk):
    """Including missing limits, the singular, and surplus processes."""
    for values in ({"error_threshold": 10}, {"allowed_failed_count": -1}):
        desk.order("limits", **values)
    for number in (1, 3, 2):
        desk.order("processes", process_count_per_node=number)
    desk.look()
    assert [words[2] for words in desk.said] == [
        *["limits are now error_threshold 10, allowed_failed_count no limit, allowed_failed_percent no limit"] * 2,
        "every node now runs 1 process; surplus processes exit after their current mini-batch",
        "every node now runs 3 processes",
        "every node now runs 2 processes; surplus processes exit after their current mini-batch",
    ]


def test_a_changed_number_of_processes_outlives_the_execution(desk):
    """It applies to this execution and the next."""
    desk.order("processes", process_count_per_node=3)
    assert desk.look() == [ProcessesChanged(3)]
    assert Overrides.of_metadata(desk.ledger.metadata()).of(desk.config).process_count_per_node == 3


def test_a_command_for_another_execution_is_ignored(desk):
    """Its execution ended before or after recording it: it must not be applied now."""
    left, done = desk.order("pause"), desk.order("limits", error_threshold=1)
    desk.drive()
    assert desk.look() == []
    assert left.id not in desk.answers()
    assert desk.order("pause").id
    assert desk.look() == [Paused()]
    assert done.id not in {order.id for order in desk.ledger.commands()}


def test_a_repeated_command_is_applied_once(desk):
    """Its id identifies it."""
    line = desk.order("pause").to_line()
    for _ in range(3):
        append(desk.directory.commands, line)
    assert desk.look() == [Paused()]
    assert len(desk.ledger.commands()) == 1


def test_invalid_commands_are_rejected_and_recorded(desk):
    """One with an id is acknowledged; others are recorded by their offset, once, and only up to a number."""
    wrong = {"id": uuid.uuid4().hex, "at": 1, "by": "x", "driver": "y", "order": {"processes": {"process_count_per_node": 0}}}
    append(desk.directory.commands, json.dumps(wrong).encode() + b"\n")
    append(desk.directory.commands, b"\xff\x00rubbish\n" * 500)
    assert desk.look() == []
    applied, words = desk.answers()[wrong["id"]]
    assert (applied, words) == (False, "process_count_per_node: expected an integer from 1 to 1024, got 0")
    orders = desk.ledger.commands()
    assert len(orders) == 100
    assert {order.applied_at for order in orders} == {None}
    desk.order("pause")
    assert desk.look() == [Paused()]


def test_a_command_that_is_too_late_is_rejected(desk):
    """While the result is being assembled, nothing can be controlled."""
    desk.control.close("it is over")
    order = desk.order("pause")
    assert desk.look() == []
    assert desk.answers() == {order.id: (False, "it is over")}
    assert desk.ledger.commands()[0].applied_at is None


def test_commands_are_acknowledged_before_the_cluster_is_open(desk):
    """They are recorded immediately, and their events are delivered later."""
    order = desk.order("pause")
    desk.control.poll()
    assert desk.answers()[order.id][0] is True
    assert desk.look() == [Paused()]


def test_a_ledger_of_an_earlier_version_gets_the_controls_table(desk):
    """Such a ledger lacks it."""
    with closing(sqlite3.connect(desk.directory.ledger, isolation_level=None)) as connection:
        connection.execute("DROP TABLE controls")
    assert desk.ledger.commands() == []
    desk.drive()
    desk.order("pause")
    assert desk.look() == [Paused()]
    assert len(desk.ledger.commands()) == 1
