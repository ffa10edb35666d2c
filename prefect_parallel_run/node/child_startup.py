"""Starts a child in a folder of its own, imports the script and calls init(), or records why that failed.

The child imports the script immediately but calls init() only when the slot requests it. The standby child of a node waits in
between: it is started ahead to replace a child that dies or is killed. Unused, it calls neither init() nor shutdown(), and
holds nothing that init() loads. It is not forked from a template process: forking is unsafe with the threads of Arrow, OpenBLAS
or CUDA, and a script may rely on being imported once in every process.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from prefect_parallel_run.errors import EntryScriptError
from prefect_parallel_run.node.child_process import Child, describe_exit
from prefect_parallel_run.node.cores import OPENMP
from prefect_parallel_run.node.node_log import ProcessLog, ProcessRecord
from prefect_parallel_run.node.settings import NodeSettings

IMPORTING, WAITING, IN_INIT, READY = "importing", "waiting", "in init", "ready"  #: stages of a start
_STAGES = {("imported",): WAITING, ("init",): IN_INIT, ("ready",): READY}
_POLL_INTERVAL = 0.005  #: s
_ANSWER_TIMEOUT = 1.0  #: s; a standby child that is stopped or swapped out is not worth a longer wait
_SOON = 0.5  #: share of run_invocation_timeout; a mini-batch that has used this much may well time out


class StartFailure(NamedTuple):
    """Why no child could be started."""

    stage: str  #: spawn, import, init, start (one of the two), idle
    error_type: str
    error: str
    traceback: str

    def as_error(self, script: str) -> EntryScriptError:
        """Return the error of a run in which no process could start *script*."""
        reason = {
            "spawn": "its process did not start",
            "import": "it cannot be imported",
            "init": "its init() failed",
            "start": "its process never became ready",
            "idle": "its process does not stay alive",
        }[self.stage]
        return EntryScriptError(script, f"{reason}: {self.error_type}: {self.error}", self.traceback)


class Startup:
    """A child, its record, and the stages of its start. One thread at a time uses it, but Slot.stop() may kill the child."""

    def __init__(self, child: Child, record: ProcessRecord, init_timeout: float) -> None:
        self.child, self.record, self._init_timeout = child, record, init_timeout
        self.stage = IMPORTING  #: seen at the last poll
        self.failure: StartFailure | None = None  #: why the child will never be ready
        self._started = time.monotonic()
        self._init_requested: float | None = None
        self._reached: dict[str, float] = {}  # when each stage was first seen

    def call_init(self) -> None:
        """Have the child call init() as soon as it has imported the script."""
        self._init_requested = time.monotonic()
        self.child.send([b'"init"\n'])

    def poll(self, seconds: float) -> bool:
        """Wait up to *seconds* for messages of the child; return True once it is ready or has failed."""
        if self.stage != READY and self.failure is None:
            self.child.wait(seconds)
            self.child.pump()
            self.failure = self._read_answers()
        return self.stage == READY or self.failure is not None

    def mark_ready(self, slot: int) -> None:
        """Record that the child is ready and works in *slot*."""
        ready = self._reached[READY]
        imported, in_init = (self._reached.get(stage, ready) for stage in (WAITING, IN_INIT))
        self.record.ready(slot, imported - self._started, ready - in_init)

    def discard(self, reason: str = "") -> None:
        """Kill the child, remove its folder and record why it exited: for *reason*, or because of its start."""
        self.child.kill()
        for folder in self.child.folders_with_files():
            self.record.files_lost(folder)
        self.record.ended(reason or ("unneeded" if self.failure is None else "start_failed"), self.child.exit_status())
        self.child.close()

    def _read_answers(self) -> StartFailure | None:
        status = self.child.exit_status()
        try:
            for answer in self.child.answers():
                if len(answer) == 5 and answer[0] == "start_failed":
                    return StartFailure(*(str(value) for value in answer[1:]))
                self.stage = _STAGES[tuple(answer)]
                self._reached[self.stage] = time.monotonic()
        except (ValueError, KeyError, TypeError) as error:
            return StartFailure("start", "ProtocolError", f"the process wrote invalid data to its answer pipe: {error}", "")
        if self.stage == READY:
            return None
        if status is not None:
            return StartFailure("start", "ProcessDied", f"its process {describe_exit(status)} before it was ready", "")
        # The import is timed from the start, init() from the request.
        since = self._started if self.stage == IMPORTING else self._init_requested
        if since is not None and time.monotonic() > since + self._init_timeout:
            message = f"import and init() exceeded init_timeout = {self._init_timeout:g} s"
            return StartFailure("start", "InitTimeout", message, self.child.stacks())
        return None


class ChildFactory:
    """Starts the children of a node in new folders in *scratch*; *environment* returns all variables of the next one."""

    def __init__(
        self, settings: NodeSettings, environment: Callable[[], dict[str, str]], scratch: str, process_log: ProcessLog
    ) -> None:
        self.interpreter = str(settings.interpreter.source or sys.executable)
        self._settings, self._environment, self._scratch = settings, environment, scratch
        self._process_log = process_log

    def start(self, name: str, slot: int | None = None) -> Startup:
        """Start a child that imports the script, and calls init() if it is for a *slot* (None: a standby child).

        Its *name*, unique on the node, is in the names of its logs and its part; raises OSError.
        """
        process = f"{self._settings.prefix}{name}"
        logs = f"{self._settings.run.directory}/logs/{process}"
        scratch = tempfile.mkdtemp(prefix=f"{process}.", dir=self._scratch)
        environment = self._environment()
        try:
            pipe = self._settings.node.prints
            child = Child(self.interpreter, environment, scratch, pipe or f"{logs}.stdout.txt", pipe or f"{logs}.stderr.txt")
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        message = json.dumps(self._settings.for_child(process=process, scratch=scratch), separators=(",", ":"))
        child.send([message.encode("ascii"), b"\n"])
        record = self._process_log.add(process, child.pid, slot, environment.get(OPENMP, ""))
        startup = Startup(child, record, self._settings.limits.init_timeout)
        if slot is not None:
            startup.call_init()
        return startup


class StandbyChild:
    """At most one child of a node, started ahead and shared by the node's slots.

    The slots maintain it while they watch their children: it has no thread of its own. Failures of an unused standby child
    are ignored: the slot that needs a child then starts one, and reports its failure.

    Without *factory* there is never a standby child: the children differ, each has its own GPU. One whose import has
    initialised its GPU would be useless to most slots, and hold memory of that GPU.
    """

    def __init__(self, factory: ChildFactory | None, need: StandbyNeed) -> None:
        self._factory, self._need = factory, need
        self._startup: Startup | None = None
        self._started = self._renewals = 0  # standby children so far; calls of renew()
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
            renewals = self._renewals
        if failed is not None:
            failed.discard()
        if starts:
            self._start(self._factory, renewals)

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
        self.renew()

    def renew(self) -> None:
        """Kill the standby child: the environment of the next one differs. May be called from any thread."""
        with self._lock:
            self._renewals += 1
            startup, self._startup = self._startup, None
        if startup is not None:
            startup.discard()

    def _pop_failed(self) -> Startup | None:
        if self._startup is None or not self._startup.poll(0):
            return None
        self._need.standby_failed()
        failed, self._startup = self._startup, None
        return failed

    def _start(self, factory: ChildFactory, renewals: int) -> None:
        try:
            startup: Startup | None = factory.start(f"spare.{self._started}")
        except OSError:
            startup = None
        with self._lock:
            self._is_starting = False
            if startup is None:
                self._need.standby_failed()
            elif not self._is_stopped and self._renewals == renewals:
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
