"""The nodes of a run, seen from the flow process: which workers there are, which are used, opened, told to close."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any

from distributed import Client

from prefect_parallel_run.dispatch.events import Event, NodeJoined, NodeLeft, NodesOpening, Tick
from prefect_parallel_run.dispatch.node_setup import GONE, NodeSetup, NodeSetups, ReadyNode, RemoteSetup
from prefect_parallel_run.dispatch.observer import Observer
from prefect_parallel_run.dispatch.worker_rpc import call_worker
from prefect_parallel_run.dispatch.worker_selection import choose
from prefect_parallel_run.dispatch.worker_tracker import Roster
from prefect_parallel_run.errors import ComputeTargetError, EnvironmentSetupError, ParallelRunError
from prefect_parallel_run.node.rpc import NodeAccess, ShutdownReport, close_node, keep_node, remove_node
from prefect_parallel_run.node.script_lines import LogBatch
from prefect_parallel_run.node.settings import NodeSettings
from prefect_parallel_run.node.watchdog import EVERY

TICK = 0.25  #: s at most between two heartbeats
PATIENCE = 30.0  #: s without a sign of life after which a node, or the scheduler, counts as lost
_LOOK = 1.0  #: s between two looks at which nodes there are
_STOP_TIMEOUT = 3.0  #: s for the nodes to stop their children, or to remove what they have, when a run is over
_NOT_THERE = ("ModuleNotFoundError(", "ImportError(", "AttributeError(")  #: how Dask tells that a worker has not our functions
_OPENINGS = 5  #: times that one worker is opened, or that is tried, before it is left alone


class Nodes:
    """The workers that a run uses.

    Args:
        client: Of the cluster.
        settings: What every node is told.
        wanted: Nodes used at most.
        observer: Who is told.
        check_cancelled: Called every TICK or so while nodes are waited for; raises to stop the run.
        discard: Called with the name of a worker that counts as lost although it is still there.
        report: Called with what happens to nodes.
        prepared: Nodes that are named already, from ``node-0`` on.
        journey: None for nodes that are processes of this machine.
        hear: Called with what a node's scripts have logged at the end; on any thread.
    """

    def __init__(
        self,
        client: Client,
        settings: NodeSettings,
        wanted: int,
        observer: Observer,
        check_cancelled: Callable[[], None],
        discard: Callable[[str], None],
        report: Callable[[Event], None],
        prepared: int = 0,
        journey: RemoteSetup | None = None,
        hear: Callable[[LogBatch], None] = lambda _: None,
    ) -> None:
        self._client, self._settings, self._wanted = client, settings, wanted
        self._observer, self._check_cancelled, self._discard, self._report = observer, check_cancelled, discard, report
        self._hear_script = hear
        self._roster = Roster(PATIENCE)
        self._workers: dict[str, Any] = {}  # what the scheduler says of those that give signs of life, by address
        self._names: dict[str, str] = {}  # of nodes that are open, by address
        self._ways: dict[str, NodeAccess] = {}  # of nodes that are open and were told theirs, by address
        self._openings = NodeSetups(client, settings, prepared, journey, lambda: report(Tick()))
        self._tries: Counter[str] = Counter()  # to open, by address
        self._left_alone: set[str] = set()  # addresses
        self._deaf: set[str] = set()  # addresses that did not answer when all was to end
        self._unopened: list[str] = []  # addresses of openings that the end of the run cut short
        self._has_begun = False
        self._told_opening = 0
        self._is_over = False
        self._question: Future[Any] | None = None  # that the scheduler has been asked
        self._asked_at = 0.0
        self._next_look = 0.0

    @property
    def addresses(self) -> list[str]:
        """Return the addresses of all open nodes."""
        return list(self._names)

    def address_of(self, node: str) -> str:
        """Return a node's address."""
        return next(address for address, name in self._names.items() if name == node)

    def has(self, node: str) -> bool:
        """True for a node that is open."""
        return node in self._names.values()

    def want_slots(self, count: int) -> None:
        """Have nodes that are opened from now on start with so many slots."""
        self._openings.want_slots(count)

    def has_rows_at_home(self, node: str) -> bool:
        """True for a node whose rows have to be fetched."""
        way = self._ways.get(self.address_of(node))
        return way is not None and way.rows_home

    @property
    def with_rows_at_home(self) -> list[str]:
        """Return the addresses of open nodes whose rows and logs have to be fetched, and can be."""
        at_home = [address for address in self._names if address in self._ways and self._ways[address].rows_home]
        return [address for address in at_home if address not in self._deaf]

    @property
    def opening(self) -> int:
        """Return how many nodes are being opened."""
        return len(self._openings)

    def begin(self) -> None:
        """Have the nodes of other people's workers told from now on that they are wanted."""
        if self._settings.is_kept:
            self._client.loop.add_callback(self._keep)

    def look(self) -> None:
        """Take in what has been opened, and see now and then which workers there are; nothing is waited for.

        Raises:
            ComputeTargetError: The scheduler is lost, or one of the first workers is of no use; so with
            EnvironmentSetupError, InputError, OutputError: It cannot build the environment, or does not see what it must.
        """
        for opening, outcome in self._openings.ended():
            self._take_in(opening, outcome)
        if (workers := self._hear()) is not None:
            self._notice(workers, ())
            self._choose()
        if self.opening != self._told_opening:
            self._told_opening = self.opening
            self._report(NodesOpening(self.opening))

    def forget(self, node: str) -> None:
        """Take note that a node is lost; its worker may be opened again under another name."""
        for address in [address for address, name in self._names.items() if name == node]:
            del self._names[address]
            self._ways.pop(address, None)

    def call(self, addresses: Collection[str], function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Call *function* on some workers and return what came of it, an exception for one that is lost or gives no sign.

        Meanwhile the heartbeat goes on. A function may take its time as long as its worker shows that it lives.
        """
        calls = {address: call_worker(self._client, address, function, *arguments) for address in addresses}
        while not all(call.done() for call in calls.values()):
            wait_for(calls.values(), timeout=TICK)
            self._check_cancelled()
            if (workers := self._hear()) is not None:
                for address in self._notice(workers, calls):
                    calls[address].cancel()
        lost = OSError("the worker was lost")
        return {address: lost if call.cancelled() else call.exception() or call.result() for address, call in calls.items()}

    def close(self) -> None:
        """Have all nodes call shutdown() and end; what goes wrong there is told, and harms nothing: all is committed."""
        for address in self._cut_openings_short():  # not waited for: nobody needs them any more
            call_worker(self._client, address, close_node, self._settings.token, False)
        for address, answer in self.call(self.addresses, close_node, self._settings.token, True).items():
            if isinstance(answer, BaseException):
                self._observer.warned(f"{self._names[address]} was lost while shutdown() of the entry script ran there")
                continue
            self._take_last_words(answer)
            for text in answer.problems:
                self._observer.warned(f"shutdown() of the entry script failed:\n{text}")

    def give_back(self, nodes: Collection[str], fetch_logs: Callable[[Collection[str]], None]) -> None:
        """Have nodes without a lease call shutdown() and end; their workers are not used again.

        Args:
            nodes: Their names.
            fetch_logs: Called with their addresses when they have ended.
        """
        addresses = [self.address_of(node) for node in nodes]
        at_home = [address for address in self.with_rows_at_home if address in addresses]
        for answer in self.call(addresses, close_node, self._settings.token, True).values():
            self._take_last_words(answer)
        fetch_logs(addresses)
        self._tell(remove_node, at_home, time.monotonic() + _STOP_TIMEOUT)
        self._left_alone.update(addresses)
        for node in nodes:
            self.forget(node)
            self._observer.node_released(node)

    def stop(self, until: float) -> None:
        """Stop all children at once; nodes that do not answer in time are left to who closes the cluster.

        Args:
            until: Monotonic time at which the whole end is to be over.
        """
        everywhere = sorted({*self._names, *self._cut_openings_short()})  # what is being built somewhere is given up too
        self._deaf = self._tell(close_node, everywhere, min(until, time.monotonic() + _STOP_TIMEOUT), False)
        if self._deaf:
            self._observer.warned(f"not every node stopped within {_STOP_TIMEOUT:g} s")

    def remove(self, until: float) -> None:
        """Have nodes with rows at home remove them: all that counts has been fetched, and the run is over."""
        self._is_over = True
        there = [address for address in [*self.with_rows_at_home, *self._unopened] if address not in self._deaf]
        self._tell(remove_node, there, min(until, time.monotonic() + _STOP_TIMEOUT))

    def _take_last_words(self, answer: object) -> None:
        for said in answer.said if isinstance(answer, ShutdownReport) else []:
            self._hear_script(said)

    def _tell(self, function: Callable[..., Any], addresses: list[str], until: float, *arguments: Any) -> set[str]:
        """Call a function with the token on workers that may be gone; return those that have not answered in time."""
        if self._client.status != "running":  # the scheduler is gone
            return set(addresses)
        calls = {
            address: call_worker(self._client, address, function, self._settings.token, *arguments) for address in addresses
        }
        wait_for(calls.values(), timeout=max(until - time.monotonic(), 0.0))
        for call in calls.values():
            if call.done() and not call.cancelled() and call.exception() is None:
                self._take_last_words(call.result())
        return {address for address, call in calls.items() if not call.done()}

    # Which there are

    def _hear(self) -> dict[str, Any] | None:
        """Return what the scheduler says of its workers, by address; None while it has not answered, or was not asked.

        Never waits: where the scheduler takes its time, the run goes on with the nodes it has.
        """
        now = time.monotonic()
        if self._question is None:
            if now >= self._next_look:
                self._ask_scheduler(now)
            return None
        if not self._question.done():
            if now - self._asked_at > PATIENCE:
                self._question.cancel()
                raise ComputeTargetError("scheduler", f"it does not answer, for {PATIENCE:g} s")
            return None
        answered, self._question = self._question, None
        self._next_look = now + _LOOK
        try:
            workers: dict[str, Any] = answered.result()["workers"]
        except GONE as error:
            raise ComputeTargetError("scheduler", f"it does not answer: {error or type(error).__name__}") from error
        return workers

    def _ask_scheduler(self, now: float) -> None:
        scheduler = self._client.scheduler
        if scheduler is None:  # it is closed: its scheduler was lost
            raise ComputeTargetError("scheduler", "the connection to it was lost")
        loop = self._client.loop.asyncio_loop
        self._question, self._asked_at = asyncio.run_coroutine_threadsafe(scheduler.identity(), loop), now
        self._question.add_done_callback(lambda _: self._report(Tick()))  # whoever waits for events looks again

    def _notice(self, workers: dict[str, Any], being_called: Collection[str]) -> list[str]:
        """Take note of workers that came or went; return those being called that are lost, which the caller sees to."""
        heartbeats = {address: float(worker["last_seen"]) for address, worker in workers.items()}
        changes = self._roster.look(heartbeats, time.monotonic())
        lost = [*changes.gone, *changes.silent]
        self._workers = {address: workers[address] for address in {*self._workers, *changes.fresh}.difference(lost)}
        for address in lost:
            if (opening := self._openings.give_up(address)) is not None:
                self._note_failure(opening, OSError("the worker was lost"))
            elif address in self._names and address not in being_called:
                self._report(NodeLeft(self._names[address]))
        for address in changes.silent:
            self._discard(str(workers[address]["name"]))
        return [address for address in lost if address in being_called]

    async def _keep(self) -> None:
        """Tell nodes on workers that stay, now and then, that they are still wanted.

        On the client's loop, so that it goes on whatever the flow's own thread waits for.
        """
        while not self._is_over:
            for address in [*self._names, *self._openings.addresses]:  # not awaited: a deaf one must not hold up others
                call_worker(self._client, address, keep_node, self._settings.token)
            await asyncio.sleep(EVERY)

    # Opening

    def _choose(self) -> None:
        """Begin to open what is wanted and not there; what is being opened counts as there."""
        free = {
            address: worker
            for address, worker in self._workers.items()
            if address not in self._names and address not in self._openings and address not in self._left_alone
        }
        taken = [address for address in [*self._names, *self._openings.addresses] if address in self._workers]
        used = [str(self._workers[address].get("host", "")) for address in taken]
        for address in choose(free, used, self._wanted - len(self._names) - len(self._openings)):
            self._tries[address] += 1
            self._openings.begin(address, is_first=not self._has_begun)

    def _take_in(self, opening: NodeSetup, outcome: ReadyNode | BaseException) -> None:
        if isinstance(outcome, BaseException):
            self._note_failure(opening, outcome)
            return
        self._names[opening.address] = outcome.facts.node
        if outcome.way is not None:
            self._ways[opening.address] = outcome.way
        self._observer.node_joined(outcome.facts)
        self._report(NodeJoined(outcome.facts.node, outcome.facts.slots))
        if not self._has_begun:
            self._has_begun = True
            there = len(self._names) + len(self._openings)
            if there < self._wanted:
                words = f"{there} of {self._wanted} nodes are there; the step starts with them"
                self._observer.warned(f"{words}, and uses the other {self._wanted - there} when they come")

    def _note_failure(self, opening: NodeSetup, error: BaseException) -> None:
        """Take note of a worker that cannot be used: an error for one of the first, later on a warning."""
        address = opening.address
        is_gone = isinstance(error, GONE) and not isinstance(error, FileNotFoundError | PermissionError)
        if is_gone and self._tries[address] < _OPENINGS:  # or deaf, before it could be opened
            return
        problem = _told(address, error)
        if opening.is_first and not is_gone:
            raise problem
        self._left_alone.add(address)
        self._observer.warned(f"the worker {address} is not used: {problem}")

    def _cut_openings_short(self) -> list[str]:
        """Give up what is being opened, and return where."""
        self._unopened = self._openings.addresses
        for address in self._unopened:
            self._openings.give_up(address)
        return self._unopened


def _told(address: str, error: BaseException) -> BaseException:
    """Return a worker's failure in words that say where it happened."""
    if isinstance(error, EnvironmentSetupError):
        return EnvironmentSetupError(error.environment, f"on the node {address}: {error.reason}")
    if isinstance(error, ParallelRunError):
        return error
    if isinstance(error, ImportError | AttributeError) or str(error).startswith(_NOT_THERE):
        words = f"prefect_parallel_run cannot be used on the worker {address}; install the version of the flow process there"
        return ComputeTargetError(address, f"{words}: {type(error).__name__}: {error}")
    if isinstance(error, GONE):
        return ComputeTargetError(address, f"it cannot be opened: {type(error).__name__}: {error}")
    return error
