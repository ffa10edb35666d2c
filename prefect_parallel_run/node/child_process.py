"""One child process as its slot sees it: started, spoken to, watched, killed. Decides nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefect_parallel_run.child.shared_memory import GIVE_BACK, GO, SIZE, STOP, SharedStatus
from prefect_parallel_run.node.resource_usage import resident

_CHILD = Path(__file__).parent.parent / "child" / "__main__.py"
_PIPE_SIZE = 1 << 20  #: bytes that may wait in a pipe, where the system lets us say so
_BLOCK = 1 << 18
AZURE_KEEPS = ("outputs", "logs")  #: folders of the working directory
_SETTLE = 0.001  #: s; far more than a write to memory takes to be seen by another processor
_STACK_WAIT = 0.1  #: s given to a process to write down where it is


class Child:
    """A running child process.

    Args:
        interpreter: That runs it.
        environment: Its environment, whole.
        directory: Its working directory, which goes with it.
        stdout, stderr: Files that its output is appended to.

    Raises:
        OSError: There is no process; the directory is left alone.
    """

    def __init__(self, interpreter: str, environment: dict[str, str], directory: str, stdout: str, stderr: str) -> None:
        ends = _Ends()
        try:
            with Path(stdout).open("ab") as out, Path(stderr).open("ab") as err:
                self._process = subprocess.Popen(
                    [interpreter, str(_CHILD), *(str(end) for end in ends.theirs)],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    cwd=directory,
                    env=environment,
                    pass_fds=ends.theirs,
                    start_new_session=True,  # so that it can be killed with all it started
                )
        except BaseException:
            ends.close()
            raise
        self.pid = self._process.pid
        self._ends, self._directory = ends, directory
        self._board = SharedStatus(ends.board)
        ends.give_away()
        self._waiting_to_go: deque[memoryview] = deque()
        self._rest = b""
        self._bell = select.poll()
        self._bell.register(ends.bell, select.POLLIN)

    def send(self, lines: Iterable[bytes]) -> None:
        """Queue *lines* for the child and write as much as its pipe takes."""
        self._waiting_to_go.append(memoryview(b"".join(lines)))
        self.pump()

    def pump(self) -> None:
        """Write what is queued, as far as the pipe takes it."""
        while self._waiting_to_go:
            data = self._waiting_to_go[0]
            try:
                written = os.write(self._ends.inbox, data)
            except BlockingIOError:
                return
            except BrokenPipeError:  # it ended; who watches it finds out
                self._waiting_to_go.clear()
                return
            if written == len(data):
                self._waiting_to_go.popleft()
            else:
                self._waiting_to_go[0] = data[written:]

    def wait(self, seconds: float) -> None:
        """Return when the child has run out of work, or has ended, or after *seconds*."""
        if self._bell.poll(seconds * 1000):
            try:
                closed = not os.read(self._ends.bell, _BLOCK)
            except BlockingIOError:
                closed = False
            if closed:  # it is ending: its exit status follows within moments
                time.sleep(0.001)

    def answers(self) -> list[Any]:
        """Return the messages that have arrived; raises ValueError for bytes that are none."""
        blocks = [self._rest]
        while True:
            try:
                block = os.read(self._ends.outbox, _BLOCK)
            except BlockingIOError:
                break
            if not block:
                break
            blocks.append(block)
        whole, newline, self._rest = b"".join(blocks).rpartition(b"\n")
        if not newline:
            return []
        messages = json.loads(b"[" + whole.replace(b"\n", b",") + b"]")
        return messages if isinstance(messages, list) else []

    def running(self) -> tuple[int, float]:
        """Return the mini-batch that is running (or board.IDLE) and when it began (monotonic clock)."""
        return self._board.read()

    def stop_reading(self) -> None:
        """Keep it from beginning another mini-batch; it ends instead."""
        self._board.order(STOP)

    def call_back(self) -> int:
        """Have it leave undone what it has not begun; return the last mini-batch that it may have begun, or board.IDLE."""
        self._board.order(GIVE_BACK)
        time.sleep(_SETTLE)
        return self._board.read()[0]

    def let_go_on(self) -> None:
        """Have it run mini-batches again; all that it was called back from must have been answered."""
        self._board.order(GO)

    def exit_status(self) -> int | None:
        """Return its exit status once it has ended; minus the signal's number when one ended it."""
        return self._process.poll()

    def resident(self) -> int:
        """Return its resident memory, bytes; 0 when it has ended."""
        return resident(self.pid)

    def stacks(self) -> str:
        """Return where its threads are now, most recent call first; it can tell even while stuck in C code."""
        before = os.fstat(self._ends.stacks).st_size
        self._signal(signal.SIGUSR2)
        deadline = time.monotonic() + _STACK_WAIT
        size = before
        while time.monotonic() < deadline and (size == before or size != os.fstat(self._ends.stacks).st_size):
            size = os.fstat(self._ends.stacks).st_size
            time.sleep(0.005)
        return os.pread(self._ends.stacks, 20_000, before).decode("utf-8", "replace")

    def kill(self) -> None:
        """End it at once, with all it started in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def left_behind(self) -> list[str]:
        """Return which folders that Azure keeps have files in its directory; the process must have ended."""
        return [name for name in AZURE_KEEPS if any(files for _, _, files in os.walk(f"{self._directory}/{name}"))]

    def close(self) -> None:
        """Give its descriptors back and remove its directory; the process must have ended."""
        self._board.close()
        self._ends.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            os.kill(self.pid, number)


class _Ends:
    """The descriptors between a slot and its child; those of the child are closed here once it has them."""

    def __init__(self) -> None:
        inbox_theirs, self.inbox = os.pipe()
        self.outbox, outbox_theirs = os.pipe()
        self.bell, bell_theirs = os.pipe()
        lifeline_theirs, lifeline = os.pipe()  # ours stays open, and nothing is written to it: child/lifeline.py
        self.board = _memory()
        self.stacks = _memory()
        os.ftruncate(self.board, SIZE)
        os.pwrite(self.board, b"\xff" * 8, 0)  # board.IDLE
        self.theirs = (inbox_theirs, outbox_theirs, bell_theirs, lifeline_theirs, self.board, self.stacks)
        for descriptor in (self.inbox, self.outbox, self.bell):
            os.set_blocking(descriptor, False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            for descriptor in (self.inbox, self.outbox):
                _widen(descriptor)
        self._open = {*self.theirs, self.inbox, self.outbox, self.bell, lifeline}

    def give_away(self) -> None:
        """Close the child's ends of the pipes here."""
        for descriptor in self.theirs[:4]:
            os.close(descriptor)
            self._open.discard(descriptor)

    def close(self) -> None:
        """Close all that is open here."""
        while self._open:
            os.close(self._open.pop())


def _widen(descriptor: int) -> None:
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    except OSError:  # over the user's limit: the usual size works too, with more wake-ups
        return


def _memory() -> int:
    """Return a descriptor of some bytes of memory that two processes can share."""
    if sys.platform == "linux":
        return os.memfd_create("prefect_parallel_run")
    descriptor, path = tempfile.mkstemp()
    Path(path).unlink()
    return descriptor
