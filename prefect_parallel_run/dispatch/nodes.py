"""The nodes of a run, seen from the flow process: which workers there are, which are used, opened, told to close."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distributed import Client

from prefect_parallel_run.dispatch.calls import call_worker
from prefect_parallel_run.dispatch.choosing import choose
from prefect_parallel_run.dispatch.messages import Event, NodeJoined, NodeLeft
from prefect_parallel_run.dispatch.observer import Observer
from prefect_parallel_run.dispatch.roster import Roster
from prefect_parallel_run.errors import ComputeTargetError, EnvironmentSetupError, InputError, OutputError, ParallelRunError
from prefect_parallel_run.node.keeping import EVERY
from prefect_parallel_run.node.preflight import Probe, View
from prefect_parallel_run.node.script_lines import Said
from prefect_parallel_run.node.service import (
    LastWords,
    Way,
    close_node,
    keep_node,
    open_node,
    remove_node,
    take_bundle,
    view_node,
)
from prefect_parallel_run.node.settings import NodeSettings

_GONE = (OSError, asyncio.TimeoutError, asyncio.CancelledError, FutureCancelledError)  #: how calls to what is lost end
TICK = 0.25  #: s at most between two heartbeats
PATIENCE = 30.0  #: s without a sign of life after which a node, or the scheduler, counts as lost
_LOOK = 1.0  #: s between two looks at which nodes there are
_STOP_TIMEOUT = 4.0  #: s for the nodes to stop their children when a run is aborted
_PIECE = 4 << 20  #: bytes of a bundle in one message
_NOT_THERE = ("ModuleNotFoundError(", "ImportError(", "AttributeError(")  #: how Dask tells that a worker has not our functions
_OPENINGS = 5  #: times that one worker is opened, or that is tried, before it is left alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """What nodes on other machines have to be asked and given before they can be used."""

    probe: Probe
    bundle: Path  #: the script as it travels
    mark: Path  #: that nodes look for

    def end(self) -> None:
        """Remove what was only made for it."""
        for path in (self.bundle, self.mark):
            path.unlink(missing_ok=True)


class Nodes:
    """The workers that a run uses.

    Args:
        client: Of the cluster.
        settings: What every node is told.
        wanted: Nodes used at most.
        observer: Who is told.
        heartbeat: Called every TICK or so while nodes are waited for; raises to stop the run.
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
        heartbeat: Callable[[], None],
        discard: Callable[[str], None],
        report: Callable[[Event], None],
        prepared: int = 0,
        journey: Journey | None = None,
        hear: Callable[[Said], None] = lambda _: None,
    ) -> None:
        self._client, self._settings, self._wanted = client, settings, wanted
        self._observer, self._heartbeat, self._discard, self._report = observer, heartbeat, discard, report
        self._journey, self._hear = journey, hear
        self._roster = Roster(PATIENCE)
        self._workers: dict[str, Any] = {}  # what the scheduler says of those that give signs of life, by address
        self._names: dict[str, str] = {}  # of nodes that are open, by address
        self._ways: dict[str, Way] = {}  # by address
        self._next_name = prepared
        self._openings: Counter[str] = Counter()  # by address
        self._left_alone: set[str] = set()  # addresses
        self._has_begun = False
        self._being_opened: list[str] = []  # addresses
        self._is_over = False
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
        self._settings = replace(self._settings, slots=count)

    def has_rows_at_home(self, node: str) -> bool:
        """True for a node whose rows have to be fetched."""
        way = self._ways.get(self.address_of(node))
        return way is not None and way.rows_home

    @property
    def with_rows_at_home(self) -> list[str]:
        """Return the addresses of open nodes whose rows and logs have to be fetched."""
        return [address for address in self._names if address in self._ways and self._ways[address].rows_home]

    def begin(self) -> None:
        """Have the nodes of other people's workers told from now on that they are wanted."""
        if self._settings.is_kept:
            self._client.loop.add_callback(self._keep)

    def look(self) -> None:
        """Find out, now and then, which workers have come and which are lost; open those that are wanted."""
        if time.monotonic() < self._next_look:
            return
        self._notice(())
        free = {
            address: worker
            for address, worker in self._workers.items()
            if address not in self._names and address not in self._left_alone
        }
        used = [str(self._workers[address].get("host", "")) for address in self._names if address in self._workers]
        if chosen := choose(free, used, self._wanted - len(self._names)):
            self._open(chosen)
        if not self._has_begun and self._names:
            self._has_begun = True
            if (missing := self._wanted - len(self._names)) > 0:
                words = f"{len(self._names)} of {self._wanted} nodes are there; the step starts with them"
                self._observer.warned(f"{words}, and uses the other {missing} when they come")

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
            self._heartbeat()
            if time.monotonic() >= self._next_look:
                for address in self._notice(calls):
                    calls[address].cancel()
        lost = OSError("the worker was lost")
        return {address: lost if call.cancelled() else call.exception() or call.result() for address, call in calls.items()}

    def close(self) -> None:
        """Have all nodes call shutdown() and end; what goes wrong there is told, and harms nothing: all is committed."""
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
        self._tell_all(remove_node, at_home, self._settings.token)
        self._left_alone.update(addresses)
        for node in nodes:
            self.forget(node)
            self._observer.node_released(node)

    def stop(self) -> None:
        """Stop all children at once; nodes that do not answer in time are left to who closes the cluster."""
        everywhere = sorted({*self._names, *self._being_opened})  # what is being built somewhere is given up too
        if not self._tell_all(close_node, everywhere, self._settings.token, False):
            self._observer.warned(f"not every node stopped within {_STOP_TIMEOUT:g} s")

    def remove(self) -> None:
        """Have nodes with rows at home remove them: all that counts has been fetched, and the run is over."""
        self._is_over = True
        self._tell_all(remove_node, self.with_rows_at_home, self._settings.token)

    def _take_last_words(self, answer: object) -> None:
        for said in answer.said if isinstance(answer, LastWords) else []:
            self._hear(said)

    def _tell_all(self, function: Callable[..., Any], addresses: list[str], *arguments: Any) -> bool:
        """Call a function on workers that may be gone; False when not all have answered in time."""
        if not addresses:
            return True
        if self._client.status != "running":  # the scheduler is gone
            return False

        async def tell() -> None:
            answers = await self._client.run(function, *arguments, workers=addresses, on_error="ignore", asynchronous=True)
            for answer in answers.values():
                self._take_last_words(answer)

        try:
            self._client.sync(tell, callback_timeout=_STOP_TIMEOUT)
        except _GONE:
            return False
        return True

    # Which there are

    def _notice(self, being_called: Collection[str]) -> list[str]:
        """Take note of workers that came or went; return those being called that are lost, which the caller sees to."""
        self._next_look = time.monotonic() + _LOOK
        workers = self._ask_scheduler()
        heartbeats = {address: float(worker["last_seen"]) for address, worker in workers.items()}
        changes = self._roster.look(heartbeats, time.monotonic())
        lost = [*changes.gone, *changes.silent]
        self._workers = {address: workers[address] for address in {*self._workers, *changes.fresh}.difference(lost)}
        for address in lost:
            if address in self._names and address not in being_called:
                self._report(NodeLeft(self._names[address]))
        for address in changes.silent:
            self._discard(str(workers[address]["name"]))
        return [address for address in lost if address in being_called]

    def _ask_scheduler(self) -> dict[str, Any]:
        """Return what the scheduler says of its workers, by address."""
        if self._client.scheduler is None:  # it is closed: its scheduler was lost
            raise ComputeTargetError("scheduler", "the connection to it was lost")
        try:
            identity = self._client.sync(self._client.scheduler.identity, callback_timeout=PATIENCE)
        except _GONE as error:
            raise ComputeTargetError("scheduler", f"it does not answer: {error or type(error).__name__}") from error
        workers: dict[str, Any] = identity["workers"]
        return workers

    async def _keep(self) -> None:
        """Tell nodes on workers that stay, now and then, that they are still wanted.

        On the client's loop, so that it goes on whatever the flow's own thread waits for.
        """
        while not self._is_over:
            for address in [*self._names, *self._being_opened]:  # one by one, not awaited: a deaf one must not hold up others
                call_worker(self._client, address, keep_node, self._settings.token)
            await asyncio.sleep(EVERY)

    # Opening

    def _open(self, addresses: list[str]) -> None:
        self._openings.update(addresses)
        self._being_opened = addresses
        addresses = self._make_ready(addresses) if self._journey is not None else addresses
        offered = {address: f"node-{number}" for number, address in enumerate(addresses, self._next_name)}
        names = self._names | offered
        opened = self.call(addresses, open_node, self._settings, names, self._ways)
        for number, (address, name) in enumerate(offered.items(), self._next_name):
            if getattr(opened[address], "node", name) == name:  # taken, or perhaps taken by one that could not answer
                self._next_name = number + 1
        for address, facts in opened.items():
            if isinstance(facts, BaseException):
                self._note_failure(address, facts)
                continue
            self._names[address] = facts.node
            self._observer.node_joined(facts)
            self._report(NodeJoined(facts.node, facts.slots))
        self._being_opened = []

    def _make_ready(self, addresses: list[str]) -> list[str]:
        """Ask workers what they see, give them what they lack, and return those that can be used."""
        assert self._journey is not None  # noqa: S101  for the type checker: there are no others here
        views: dict[str, View] = {}
        for address, view in self.call(addresses, view_node, self._journey.probe).items():
            problem = view if isinstance(view, BaseException) else _problem(address, view)
            if problem is not None:
                self._note_failure(address, problem)
            else:
                views[address] = view
        self._ways |= {address: Way(not view.shares, not view.sees_script) for address, view in views.items()}
        lacking = [address for address, view in views.items() if not (view.sees_script or view.has_bundle)]
        refused = self._give_bundle(self._journey, lacking)
        return [address for address in views if address not in refused]

    def _give_bundle(self, journey: Journey, addresses: list[str]) -> set[str]:
        """Send the bundle, piece by piece, and return the workers that did not take it."""
        refused: set[str] = set()
        if not addresses:
            return refused
        size, offset = journey.bundle.stat().st_size, 0
        with journey.bundle.open("rb") as file:
            while offset < size:
                piece = file.read(_PIECE)
                is_last = offset + len(piece) == size
                left = [address for address in addresses if address not in refused]
                arguments = (self._settings.token, journey.probe.bundle, offset, piece, is_last)
                for address, answer in self.call(left, take_bundle, *arguments).items():
                    if isinstance(answer, BaseException):
                        refused.add(address)
                        self._note_failure(address, answer)
                offset += len(piece)
        return refused

    def _note_failure(self, address: str, error: BaseException) -> None:
        """Take note of a worker that cannot be used: an error at the beginning, later on a warning."""
        is_gone = isinstance(error, _GONE) and not isinstance(error, FileNotFoundError | PermissionError)
        if is_gone and self._openings[address] < _OPENINGS:  # or deaf, before it could be opened
            return
        problem = _told(address, error)
        if not self._has_begun and not is_gone:
            raise problem
        self._left_alone.add(address)
        self._observer.warned(f"the worker {address} is not used: {problem}")


def _told(address: str, error: BaseException) -> BaseException:
    """Return a worker's failure in words that say where it happened."""
    if isinstance(error, EnvironmentSetupError):
        return EnvironmentSetupError(error.environment, f"on the node {address}: {error.reason}")
    if isinstance(error, ParallelRunError):
        return error
    if isinstance(error, ImportError | AttributeError) or str(error).startswith(_NOT_THERE):
        words = f"prefect_parallel_run cannot be used on the worker {address}; install the version of the flow process there"
        return ComputeTargetError(address, f"{words}: {type(error).__name__}: {error}")
    if isinstance(error, _GONE):
        return ComputeTargetError(address, f"it cannot be opened: {type(error).__name__}: {error}")
    return error


def _problem(address: str, view: View) -> ParallelRunError | None:
    """Return what keeps a worker from being used, or None."""
    for name, path in view.missing:
        where = f"the node {address} (host {view.host}) cannot see it"
        if name == "output":
            return OutputError(path, f"{where}; the script writes there: use a folder that all nodes share, or a store's URL")
        return InputError(path, f"{where}; use a folder that all nodes share, or a store's URL")
    return None
