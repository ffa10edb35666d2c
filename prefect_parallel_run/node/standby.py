"""The standby child of a node: started ahead, with the script imported, to replace a child that dies or is killed.

It has not called init(): an unused standby child calls neither init() nor shutdown(), and holds nothing that init() loads.
It is not forked from a template process: forking is unsafe with the threads of Arrow, OpenBLAS or CUDA, and a script may
rely on being imported once in every process.
"""

from __future__ import annotations

import threading
import time

from prefect_parallel_run.node.child_startup import IMPORTING, WAITING, ChildFactory, Startup

_POLL_INTERVAL = 0.005  #: s
_ANSWER_TIMEOUT = 1.0  #: s; a standby child that is stopped or swapped out is not worth a longer wait
_SOON = 0.5  #: share of run_invocation_timeout; a mini-batch that has used this much may well time out


class StandbyChild:
    """At most one child of a node, started ahead and shared by the node's slots.

    The slots maintain it while they watch their children: it has no thread of its own. Failures of an unused standby child
    are ignored: the slot that needs a child then starts one, and reports its failure.

    Without *factory* there is never a standby child: the children differ, each has its own GPU. One whose import has
    initialized its GPU would be useless to most slots, and hold memory of that GPU.
    """

    def __init__(self, factory: ChildFactory | None, need: StandbyNeed) -> None:
        self._factory, self._need = factory, need
        self._startup: Startup | None = None
        self._started = 0  # standby children so far
        self._is_starting = self._is_stopped = False
        self._lock = threading.Lock()  # between the slots; never held while a process is started or killed

    def child_ended(self) -> None:
        """Record that a child of the node has died or was killed."""
        with self._lock:
            self._need.child_ended()

    def maintain(self, seconds: float) -> None:
        """Start a standby child when one is needed, and discard one that has failed.

        The caller's mini-batch has been running for *seconds*.
        """
        if self._factory is None:
            return
        with self._lock:
            self._need.mini_batch_has_run(seconds)
            failed = self._pop_failed()
            starts = self._need.is_needed and self._startup is None and not (self._is_starting or self._is_stopped)
            if starts:
                self._is_starting = True
                self._started += 1
        if failed is not None:
            failed.discard()
        if starts:
            self._start(self._factory)

    def acquire(self) -> Startup | None:
        """Hand the standby child, in init() or still importing the script, to the caller; None when there is none.

        A standby child that does not answer within a second is killed.
        """
        with self._lock:
            startup, self._startup = self._startup, None
        if startup is None:
            return None
        startup.call_init()
        deadline = time.monotonic() + _ANSWER_TIMEOUT
        while not startup.poll(_POLL_INTERVAL) and startup.stage == WAITING and time.monotonic() < deadline:
            pass
        if startup.stage == WAITING or (startup.stage == IMPORTING and startup.failure is not None):
            startup.discard()  # a child has died meanwhile, so another standby child may be started
            return None
        return startup

    def stop(self) -> None:
        """Kill the standby child and start no other. May be called from any thread."""
        with self._lock:
            self._is_stopped = True
            startup, self._startup = self._startup, None
        if startup is not None:
            startup.discard()

    def _pop_failed(self) -> Startup | None:
        if self._startup is None or not self._startup.poll(0):
            return None
        self._need.standby_failed()
        failed, self._startup = self._startup, None
        return failed

    def _start(self, factory: ChildFactory) -> None:
        try:
            startup: Startup | None = factory.start(f"spare.{self._started}")
        except OSError:
            startup = None
        with self._lock:
            self._is_starting = False
            if startup is None:
                self._need.standby_failed()
            elif not self._is_stopped:
                self._startup, startup = startup, None
        if startup is not None:
            startup.discard()


class StandbyNeed:
    """Decides from the fate of a node's children whether a standby child is needed.

    None is needed at first: most runs never lose a child, and a standby child costs the memory of the script's imports. So
    the first child that crashes is replaced by one that is started only then; for a timeout, the standby child is ready.

    """

    def __init__(self, run_invocation_timeout: float) -> None:
        self._soon = _SOON * run_invocation_timeout  # s
        self._is_needed = self._has_failed = False

    @property
    def is_needed(self) -> bool:
        """True when there should be a standby child; each one that is used is then replaced by the next."""
        return self._is_needed and not self._has_failed

    def child_ended(self) -> None:
        """Record that a child has died or was killed: others may follow."""
        self._is_needed, self._has_failed = True, False

    def mini_batch_has_run(self, seconds: float) -> None:
        """Record how long a mini-batch has been running."""
        self._is_needed = self._is_needed or seconds >= self._soon

    def standby_failed(self) -> None:
        """Record that a standby child failed to start or exited: none is needed until another child has died.

        When memory is short, or the script imports something exclusive, every further one would fail too.
        """
        self._has_failed = True
