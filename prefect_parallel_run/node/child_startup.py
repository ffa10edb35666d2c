"""A child on its way: started in a folder of its own, its script imported, its init() called; or why it did not get there.

The script is imported at once, init() is called only when the slot says so: a child that is started ahead waits in between.
"""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import time
from typing import Any, NamedTuple

from prefect_parallel_run.node.child_process import Child
from prefect_parallel_run.node.process_log import ProcessLog, ProcessRecord
from prefect_parallel_run.node.settings import NodeSettings

IMPORTING, WAITING, IN_INIT, READY = "importing", "waiting", "in init", "ready"  #: stages of a start
_SAYS = {("imported",): WAITING, ("init",): IN_INIT, ("ready",): READY}


class StartFailure(NamedTuple):
    """Why no child could be started."""

    stage: str  #: spawn, import, init, start (one of the two), idle
    error_type: str
    error: str
    traceback: str


class Startup:
    """A child on its way to its first mini-batch. It belongs to one thread at a time.

    Attributes:
        child: The process.
        life: Of the process, as it is told.
        stage: How far it is, as far as it was looked at.
        failure: Why it will never be ready.
    """

    def __init__(self, child: Child, life: ProcessRecord, init_timeout: float) -> None:
        self.child, self.life, self._init_timeout = child, life, init_timeout
        self.stage = IMPORTING
        self.failure: StartFailure | None = None
        self._began = time.monotonic()
        self._called: float | None = None
        self._seen: dict[str, float] = {}  # when it was seen to be in a stage

    def call_init(self) -> None:
        """Have the child call init(), as soon as it has imported the script."""
        self._called = time.monotonic()
        self.child.send([b'"init"\n'])

    def look(self, seconds: float) -> bool:
        """Take in what the child says, within *seconds*; True once it is ready, or has failed."""
        if self.stage != READY and self.failure is None:
            self.child.wait(seconds)
            self.child.pump()
            self.failure = self._failure()
        return self.stage == READY or self.failure is not None

    def enter(self, slot: int) -> None:
        """Take note that the child, now that it is ready, works in this slot."""
        ready = self._seen[READY]
        imported, in_init = (self._seen.get(stage, ready) for stage in (WAITING, IN_INIT))
        self.life.is_ready(slot, imported - self._began, ready - in_init)

    def end(self) -> None:
        """Leave nothing of the child behind."""
        self.child.kill()
        self.life.has_ended("unneeded" if self.failure is None else "start_failed", self.child.exit_status())
        self.child.close()

    def _failure(self) -> StartFailure | None:
        ended = self.child.exit_status()
        try:
            for answer in self.child.answers():
                if len(answer) == 5 and answer[0] == "start_failed":
                    return StartFailure(*(str(part) for part in answer[1:]))
                self.stage = _SAYS[tuple(answer)]
                self._seen[self.stage] = time.monotonic()
        except (ValueError, KeyError, TypeError) as error:
            return StartFailure("start", "ProtocolError", f"its process wrote something to our pipe: {error}", "")
        if self.stage == READY:
            return None
        if ended is not None:
            return StartFailure("start", "ProcessDied", f"its process {describe_exit(ended)} before it was ready", "")
        if self._is_overdue():
            limit = f"import and init() took over init_timeout = {self._init_timeout:g} s"
            return StartFailure("start", "InitTimeout", limit, self.child.stacks())
        return None

    def _is_overdue(self) -> bool:
        """True when the import, counted from the start, or init(), counted from when it was wanted, takes too long."""
        since = self._began if self.stage == IMPORTING else self._called
        return since is not None and time.monotonic() > since + self._init_timeout


class ChildFactory:
    """Starts the children of a node.

    Args:
        settings: Of the node.
        environment: Of the children.
        interpreter: That runs them.
        scratch: Folder for their private folders.
        lives: Told of them.
    """

    def __init__(
        self, settings: NodeSettings, environment: dict[str, str], interpreter: str, scratch: str, lives: ProcessLog
    ) -> None:
        self.interpreter = interpreter
        self._settings, self._environment, self._scratch, self._lives = settings, environment, scratch, lives

    def start(self, name: str, slot: int | None = None) -> Startup:
        """Start a child that imports the script, and return at once.

        Args:
            name: Unlike that of any other child of the node; names its logs and its part.
            slot: It is started for; None for a spare.

        Raises:
            OSError: There is no process.
        """
        process = f"{self._settings.prefix}{name}"
        logs = f"{self._settings.run_directory}/logs/{process}"
        scratch = tempfile.mkdtemp(prefix=f"{process}.", dir=self._scratch)
        try:
            child = Child(self.interpreter, self._environment, scratch, f"{logs}.stdout.txt", f"{logs}.stderr.txt")
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        child.send([_line(self._settings.for_child(process=process, scratch=scratch))])
        return Startup(child, self._lives.begin(process, child.pid, slot), self._settings.init_timeout)


def describe_exit(status: int) -> str:
    """Return what an exit status says, in words.

    >>> describe_exit(3), describe_exit(-9)
    ('exited with status 3', 'was killed by SIGKILL')
    """
    return f"was killed by {death_name(status)}" if status < 0 else f"exited with status {status}"


def death_name(status: int) -> str:
    """Return the short name of an exit status.

    >>> death_name(3), death_name(-9)
    ('exit status 3', 'SIGKILL')
    """
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _line(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"
