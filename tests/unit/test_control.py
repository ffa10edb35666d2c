"""Orders that are followed, refused, kept and answered; without any run."""

import json
import sqlite3
import uuid
from contextlib import closing

import pytest

from prefect_parallel_run import ParallelRunConfig
from prefect_parallel_run.dispatch.events import Continued, LimitsChanged, Paused, ProcessesChanged
from prefect_parallel_run.execution.control import Control
from prefect_parallel_run.runs.commands import Order
from prefect_parallel_run.runs.control_files import append
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.limits import FailureLimits
from prefect_parallel_run.runs.overrides import Adjustments
from prefect_parallel_run.runs.run_directory import RunDirectory


class Desk:
    """A run directory whose run is driven, or driven again; people order, and the driver looks."""

    def __init__(self, folder, scripts):
        self.directory = RunDirectory(folder)
        self.directory.make()
        self.config = ParallelRunConfig(
            source_directory=str(scripts), entry_script="echo.py", error_threshold=5, output_action="append_row"
        )
        self.directory.describe({"config": self.config.model_dump(mode="json")})
        self.ledger = Ledger.create(self.directory.ledger, [1])
        self.said, self.driver = [], ""
        self.drive()

    def drive(self, **fields):
        """Begin to drive the run, perhaps with another configuration."""
        self.config, self.driver = self.config.model_copy(update=fields), uuid.uuid4().hex
        self.control = Control(self.directory, self.driver, self.ledger, self.config, self)

    def order(self, kind, *, driver=None, **values):
        order = Order(id=uuid.uuid4().hex, at=1.0, by="ann@host/7", driver=driver or self.driver, kind=kind, values=values)
        append(self.directory.orders, order.to_line())
        return order

    def look(self):
        self.control._next_look = 0.0
        return list(self.control.take())

    def answers(self):
        lines = self.directory.answers.read_text().splitlines() if self.directory.answers.exists() else []
        return {facts["id"]: (facts["applied"], facts["answer"]) for line in lines if line for facts in [json.loads(line)]}

    def ordered(self, *words):
        self.said.append(words)

    def paused(self, is_paused):
        self.said.append(is_paused)

    def warned(self, text):
        self.said.append(text)


@pytest.fixture
def desk(tmp_path, scripts):
    made = Desk(tmp_path / "run", scripts)
    yield made
    made.ledger.close()


def test_pause_and_continue_are_followed_kept_and_answered(desk):
    """In their order, each once; a second pause has nothing to do."""
    pause, again, go_on = desk.order("pause"), desk.order("pause"), desk.order("continue")
    assert desk.look() == [Paused(), Continued()]
    assert desk.look() == []
    assert desk.said[0] == ("pause", "ann@host/7", "no mini-batch is begun until it is told to continue")
    assert [word for word in desk.said if isinstance(word, bool)] == [True, False]
    assert {order: applied for order, (applied, _) in desk.answers().items()} == {
        pause.id: True,
        again.id: True,
        go_on.id: True,
    }
    noted = {order.id: order for order in desk.ledger.orders()}
    assert json.loads(noted[pause.id].what) == {"pause": {}}
    assert (noted[pause.id].at, noted[pause.id].by) == (1.0, "ann@host/7")
    assert noted[pause.id].applied_at > 1.0
    assert desk.ledger.facts()["paused"] == "0"


def test_changed_limits_outlive_the_driving(desk):
    """Only those that were named are others; they hold for who goes on with the run, under the same configuration."""
    desk.order("limits", error_threshold=-1)
    assert desk.look() == [LimitsChanged(FailureLimits())]
    desk.order("limits", allowed_failed_count=2)
    assert desk.look() == [LimitsChanged(FailureLimits(allowed_failed_count=2))]
    desk.drive()
    assert desk.look() == []
    adjusted = Adjustments.of_ledger(desk.ledger).of(desk.config)
    assert (adjusted.error_threshold, adjusted.allowed_failed_count) == (-1, 2)
    desk.order("limits", error_threshold=7)
    assert desk.look() == [LimitsChanged(FailureLimits(error_threshold=7, allowed_failed_count=2))]


def test_a_configuration_that_says_something_new_has_the_last_word(desk):
    """Neither what the run was begun with, nor what was changed."""
    desk.drive(error_threshold=6)  # the flow has been edited
    desk.order("limits", error_threshold=9)
    desk.look()
    adjustments = Adjustments.of_ledger(desk.ledger)
    for field, holds in ((5, 9), (6, 9), (7, 7)):
        assert adjustments.of(desk.config.model_copy(update={"error_threshold": field})).error_threshold == holds
    assert not adjustments.without({"error_threshold"})


def test_what_comes_of_an_order_is_said_plainly(desk):
    """No limit is no limit, one process is one, and that one is too many is said where that may be."""
    for values in ({"error_threshold": 10}, {"allowed_failed_count": -1}):
        desk.order("limits", **values)
    for number in (1, 3, 2):
        desk.order("processes", process_count_per_node=number)
    desk.look()
    assert [words[2] for words in desk.said] == [
        *["the limits are error_threshold 10, allowed_failed_count no limit, allowed_failed_percent no limit"] * 2,
        "every node has 1 process from now on; one too many ends behind the mini-batch that it runs",
        "every node has 3 processes from now on",
        "every node has 2 processes from now on; one too many ends behind the mini-batch that it runs",
    ]


def test_the_number_of_processes_is_changed_for_good(desk):
    """For this driving, and the next one."""
    desk.order("processes", process_count_per_node=3)
    assert desk.look() == [ProcessesChanged(3)]
    assert Adjustments.of_ledger(desk.ledger).of(desk.config).process_count_per_node == 3


def test_an_order_for_another_driving_is_not_followed(desk):
    """Whoever it was for has died before, or after, it was kept: it is not followed now."""
    left, done = desk.order("pause"), desk.order("limits", error_threshold=1)
    desk.drive()
    assert desk.look() == []
    assert left.id not in desk.answers()
    assert desk.order("pause").id
    assert desk.look() == [Paused()]
    assert done.id not in {order.id for order in desk.ledger.orders()}


def test_an_order_that_is_there_twice_is_followed_once(desk):
    """Its id says that it is the same."""
    line = desk.order("pause").to_line()
    for _ in range(3):
        append(desk.directory.orders, line)
    assert desk.look() == [Paused()]
    assert len(desk.ledger.orders()) == 1


def test_what_is_no_order_is_refused_and_kept(desk):
    """With an id it is answered; without, it is in the ledger by its place. It is refused once, and not without end."""
    wrong = {"id": uuid.uuid4().hex, "at": 1, "by": "x", "driver": "y", "order": {"processes": {"process_count_per_node": 0}}}
    append(desk.directory.orders, json.dumps(wrong).encode() + b"\n")
    append(desk.directory.orders, b"\xff\x00rubbish\n" * 500)
    assert desk.look() == []
    applied, words = desk.answers()[wrong["id"]]
    assert (applied, words) == (False, "process_count_per_node: expected an integer from 1 to 1024, got 0")
    orders = desk.ledger.orders()
    assert len(orders) == 100
    assert {order.applied_at for order in orders} == {None}
    desk.order("pause")
    assert desk.look() == [Paused()]


def test_an_order_that_comes_too_late_says_so(desk):
    """While the result is being put together, nothing can be controlled."""
    desk.control.end("it is over")
    order = desk.order("pause")
    assert desk.look() == []
    assert desk.answers() == {order.id: (False, "it is over")}
    assert desk.ledger.orders()[0].applied_at is None


def test_what_is_ordered_while_others_are_waited_for_is_passed_on_later(desk):
    """While the cluster opens, say: it is kept and answered at once."""
    order = desk.order("pause")
    desk.control.listen()
    assert desk.answers()[order.id][0] is True
    assert desk.look() == [Paused()]


def test_a_ledger_of_an_earlier_version_is_made_fit(desk):
    """It has no such table."""
    with closing(sqlite3.connect(desk.directory.ledger, isolation_level=None)) as connection:
        connection.execute("DROP TABLE controls")
    assert desk.ledger.orders() == []
    desk.drive()
    desk.order("pause")
    assert desk.look() == [Paused()]
    assert len(desk.ledger.orders()) == 1
