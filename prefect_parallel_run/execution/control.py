"""The orders that people give to a run while it goes on: read, judged, kept in the ledger, answered, passed on as events."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Protocol

from prefect_parallel_run import units
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.dispatch.events import Continued, LimitsChanged, Ordered, Paused, ProcessesChanged
from prefect_parallel_run.runs.commands import Order, OrderRefusedError
from prefect_parallel_run.runs.control_files import LineTail, answer
from prefect_parallel_run.runs.ledger import Ledger, NotedOrder
from prefect_parallel_run.runs.overrides import FACT, Adjustments
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.runs.spec import failure_limits

_LOOK = 0.5  #: s between two looks at the file
_MOST_REFUSED = 100  #: that are kept per driving: who fills the file with rubbish does not fill the ledger
_LONGEST_KEPT = 200  #: bytes of what is no order


class ControlListener(Protocol):
    """Who is told of orders."""

    def ordered(self, order: str, by: str, answer: str) -> None:
        """A person's order has been followed, or refused."""

    def paused(self, is_paused: bool) -> None:
        """A person wants no mini-batch to be begun for now, or wants them again."""

    def warned(self, text: str) -> None:
        """Something that is no failure should be known."""


class Control:
    """Follows the orders that are given to one driving of a run.

    An order names the driving that it is for, and is kept in the ledger before anything comes of it: none is followed twice,
    and none that a driving has left behind is followed by the next one.

    Args:
        directory: Of the run.
        driver: Names the driving.
        ledger: Of the run.
        config: As the step has it, without what was changed about the run.
        told: Who is told.
    """

    def __init__(
        self, directory: RunDirectory, driver: str, ledger: Ledger, config: ParallelRunConfig, told: ControlListener
    ) -> None:
        self._directory, self._driver, self._ledger, self._config, self._told = directory, driver, ledger, config, told
        self._lines = LineTail(directory.orders)
        self._known = {order.id for order in ledger.orders()}
        self._adjustments = Adjustments.of_ledger(ledger)
        self._is_paused = False
        self._over = ""  # why nothing can be followed any more
        self._refused = 0
        self._next_look = 0.0
        self._followed: deque[Ordered] = deque()  # what has not been passed on

    def listen(self) -> None:
        """Follow what has been ordered since the last look; may be called all the time."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK
        for offset, line in self._lines.take():
            try:
                order = Order.from_line(line)
            except OrderRefusedError as error:
                self._refuse(error.order or f"line-{offset}", line, str(error))
            else:
                if order.driver == self._driver and order.id not in self._known:
                    self._follow(order)

    def take(self) -> Iterator[Ordered]:
        """Yield what the run has to do for what was ordered."""
        self.listen()
        while self._followed:
            yield self._followed.popleft()

    def end(self, words: str) -> None:
        """Follow nothing any more, for the reason in *words*."""
        self._over = words

    def _follow(self, order: Order) -> None:
        if self._over:
            self._note(order, None, self._over, {})
        elif order.kind in ("pause", "continue"):
            self._pause_or_continue(order)
        else:
            self._adjust(order)

    def _pause_or_continue(self, order: Order) -> None:
        pauses = order.kind == "pause"
        if pauses == self._is_paused:
            self._note(order, time.time(), "it is paused already" if pauses else "it is not paused", {})
            return
        self._is_paused = pauses
        words = "no mini-batch is begun until it is told to continue" if pauses else "mini-batches are begun again"
        now = time.time()
        self._note(order, now, words, {"paused": "1"} if pauses else {"paused": "0", "continued": str(now)})
        self._followed.append(Paused() if pauses else Continued())
        self._told.paused(pauses)

    def _adjust(self, order: Order) -> None:
        config = self._config.model_dump(include=set(order.values))
        begun_with = {name: self._directory.facts()["config"].get(name) for name in order.values}
        before = self._adjustments.of(self._config).process_count_per_node
        self._adjustments = self._adjustments.with_values(order.values, config, begun_with)
        adjusted = self._adjustments.of(self._config)
        count = adjusted.process_count_per_node
        if order.kind == "processes" and count is not None:
            words = f"every node has {units.count(count, 'process', 'processes')} from now on"
            if before is None or before > count:
                words += "; one too many ends behind the mini-batch that it runs"
            event: Ordered = ProcessesChanged(count)
        else:
            words = "the limits are " + _told_limits(adjusted)
            event = LimitsChanged(failure_limits(adjusted))
        self._note(order, time.time(), words, {FACT: json.dumps(self._adjustments.to_facts())})
        self._followed.append(event)

    def _note(self, order: Order, applied_at: float | None, words: str, facts: Mapping[str, str]) -> None:
        self._known.add(order.id)
        self._ledger.note_order(NotedOrder(order.id, order.at, order.by, order.what, applied_at, words), facts)
        self._answer(order.id, words, applied=applied_at is not None)
        self._told.ordered(str(order), order.by, words)

    def _refuse(self, order: str, line: bytes, words: str) -> None:
        if order in self._known or self._refused >= _MOST_REFUSED:
            return
        self._known.add(order)
        self._refused += 1
        what = line[:_LONGEST_KEPT].decode("utf-8", "backslashreplace")
        self._ledger.note_order(NotedOrder(order, None, None, what, None, words), {})
        self._answer(order, words, applied=False)
        self._told.warned(f"an order was refused: {words}")

    def _answer(self, order: str, words: str, *, applied: bool) -> None:
        with suppress(OSError):  # the ledger has it; who waits is told to look there
            answer(self._directory.answers, order, applied=applied, words=words, at=time.time())


def _told_limits(config: ParallelRunConfig) -> str:
    found = asdict(failure_limits(config))
    return ", ".join(f"{name} {'no limit' if value is None else format(value, 'g')}" for name, value in found.items())
