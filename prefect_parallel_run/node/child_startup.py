"""Starts a child in a folder of its own, imports the script and calls init(), or records why that failed.

The child imports the script immediately but calls init() only when the slot requests it: a standby child waits in between.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from typing import NamedTuple

from prefect_parallel_run.node.child_process import Child, describe_exit
from prefect_parallel_run.node.node_log import ProcessLog, ProcessRecord
from prefect_parallel_run.node.settings import NodeSettings

IMPORTING, WAITING, IN_INIT, READY = "importing", "waiting", "in init", "ready"  #: stages of a start
_STAGES = {("imported",): WAITING, ("init",): IN_INIT, ("ready",): READY}


class StartFailure(NamedTuple):
    """Why no child could be started."""

    stage: str  #: spawn, import, init, start (one of the two), idle
    error_type: str
    error: str
    traceback: str


class Startup:
    """A child before its first mini-batch. It belongs to one thread at a time."""

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

    def discard(self) -> None:
        """Kill the child and remove its folder."""
        self.child.kill()
        self.record.ended("unneeded" if self.failure is None else "start_failed", self.child.exit_status())
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
    """Starts the children of a node, with all variables of *environment*, in new folders in *scratch*."""

    def __init__(self, settings: NodeSettings, environment: dict[str, str], scratch: str, process_log: ProcessLog) -> None:
        self.interpreter = settings.interpreter.path or sys.executable
        self._settings, self._environment, self._scratch = settings, environment, scratch
        self._process_log = process_log

    def start(self, name: str, slot: int | None = None) -> Startup:
        """Start a child for *slot* (None: a standby child) that imports the script, without waiting for it.

        Its *name*, unique on the node, is in the names of its logs and its part; raises OSError.
        """
        process = f"{self._settings.prefix}{name}"
        logs = f"{self._settings.run.directory}/logs/{process}"
        scratch = tempfile.mkdtemp(prefix=f"{process}.", dir=self._scratch)
        try:
            child = Child(self.interpreter, self._environment, scratch, f"{logs}.stdout.txt", f"{logs}.stderr.txt")
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        message = json.dumps(self._settings.for_child(process=process, scratch=scratch), separators=(",", ":"))
        child.send([message.encode("ascii"), b"\n"])
        return Startup(child, self._process_log.add(process, child.pid, slot), self._settings.limits.init_timeout)
