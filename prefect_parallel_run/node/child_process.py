"""One child process, seen from its slot: start it, send and receive messages, watch and kill it. Decides nothing."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect_parallel_run.child.channel import GIVE_BACK, GO, SIZE, STOP, SharedStatus
from prefect_parallel_run.child.stacks import END, TASKS, THREADS

_CHILD = Path(__file__).parent.parent / "child" / "__main__.py"
_PIPE_SIZE = 1 << 20  #: bytes of a pipe's buffer, where the system allows it
_BLOCK = 1 << 18
AZURE_KEEPS = ("outputs", "logs")  #: folders of the working directory
_SETTLE = 0.001  #: s; far longer than another processor takes to see a write to memory
_STACK_POLL, _STACK_LIMIT = 0.002, 5.0  #: s between two checks whether stacks are complete; s for a process to write them
_STACK_SIZE = 20_000  #: bytes read of the stacks of threads, or of tasks
_WAITS_FOR_EVENTS = re.compile(rb'^Current thread .*\n  File ".*\bselectors\.py", line \d+ in select$', re.MULTILINE)


class Child:
    """A running child process, in a working *directory* that ``close`` removes; its output is appended to two files.

    Raises:
        OSError: The process could not be started; the directory stays.
    """

    def __init__(self, interpreter: str, environment: dict[str, str], directory: str, stdout: str, stderr: str) -> None:
        pipes = _Pipes()
        try:
            with Path(stdout).open("ab") as out, Path(stderr).open("ab") as err:
                self._process = subprocess.Popen(
                    [interpreter, str(_CHILD), *(str(descriptor) for descriptor in pipes.theirs)],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    cwd=directory,
                    env=environment,
                    pass_fds=pipes.theirs,
                    start_new_session=True,  # so that its own child processes are killed with it
                )
        except BaseException:
            pipes.close()
            raise
        self.pid = self._process.pid
        self._pipes, self._directory = pipes, directory
        self._status = SharedStatus(pipes.status)
        pipes.close_child_ends()
        self._unsent: deque[memoryview] = deque()
        self._partial_line = b""
        self._bells = select.poll()
        for bell in (pipes.bell, pipes.interrupt):
            self._bells.register(bell, select.POLLIN)
        self._closing = threading.Lock()  # between close() and interrupt_wait() in another thread

    def send(self, lines: Iterable[bytes]) -> None:
        """Queue *lines* for the child and write as much as its pipe accepts."""
        self._unsent.append(memoryview(b"".join(lines)))
        self.pump()

    def pump(self) -> None:
        """Write as much of the queue as the pipe accepts; if data remains, wait() also returns when the pipe accepts more."""
        if not self._unsent:
            return
        try:
            while self._unsent:
                data = self._unsent[0]
                written = os.write(self._pipes.inbox, data)
                if written == len(data):
                    self._unsent.popleft()
                else:
                    self._unsent[0] = data[written:]
        except BlockingIOError:
            self._bells.register(self._pipes.inbox, select.POLLOUT)
            return
        except BrokenPipeError:  # it exited, as its exit status will show
            self._unsent.clear()
        with suppress(KeyError):
            self._bells.unregister(self._pipes.inbox)

    def wait(self, seconds: float) -> None:
        """Return when the child has run out of work or has exited, after interrupt_wait(), or after *seconds*."""
        for descriptor, _ in self._bells.poll(seconds * 1000):
            if descriptor == self._pipes.inbox:
                continue
            with suppress(BlockingIOError):
                if not os.read(descriptor, _BLOCK):  # it is exiting: its exit status follows within moments
                    time.sleep(0.001)

    def interrupt_wait(self) -> None:
        """Have the current or the next wait() return immediately. May be called from any thread."""
        with self._closing:
            if self._pipes.is_open:
                os.eventfd_write(self._pipes.interrupt, 1)

    def answers(self) -> list[Any]:
        """Return the messages received so far; raises ValueError for bytes that are not JSON lines."""
        blocks = [self._partial_line]
        with suppress(BlockingIOError):
            while block := os.read(self._pipes.outbox, _BLOCK):
                blocks.append(block)
        lines, newline, self._partial_line = b"".join(blocks).rpartition(b"\n")
        messages: list[Any] = json.loads(b"[" + lines.replace(b"\n", b",") + b"]") if newline else []
        return messages

    def running(self) -> tuple[int, float]:
        """Return the running mini-batch (or IDLE) and when it started (monotonic clock)."""
        return self._status.read()

    def stop_reading(self) -> None:
        """Keep it from starting another mini-batch; it exits instead."""
        self._status.set_command(STOP)

    def recall(self) -> int:
        """Have it return the mini-batches that it has not started; return the last that may have started, or IDLE."""
        self._status.set_command(GIVE_BACK)
        time.sleep(_SETTLE)
        return self._status.read()[0]

    def resume(self) -> None:
        """Have it run mini-batches again; every recalled mini-batch must have been answered."""
        self._status.set_command(GO)

    def exit_status(self) -> int | None:
        """Return its exit status, or the negative number of the signal that killed it; None while it runs."""
        return self._process.poll()

    def stacks(self) -> str:
        """Return the stacks of its threads, most recent call first; works even while it is stuck in C code.

        Those of asyncio's tasks come first if the main thread waits in an event loop, where it can write them immediately.
        """
        others = self._threads_blocking_stacks()
        # The kernel blocks the signal in the thread that handles it, until all stacks are written.
        threads = self._written(THREADS, lambda text: text != b"" and self._threads_blocking_stacks() <= others)
        tasks = self._written(TASKS, lambda text: text.endswith(END)) if _WAITS_FOR_EVENTS.search(threads) else b""
        return (tasks.rstrip(END) + threads).decode("utf-8", "replace")

    def _written(self, request: int, is_complete: Callable[[bytes], bool]) -> bytes:
        """Send a signal for stacks and return what the process has written when that is complete."""
        size, deadline = os.fstat(self._pipes.stacks).st_size, time.monotonic() + _STACK_LIMIT
        self._process.send_signal(request)
        while self._process.poll() is None and time.monotonic() < deadline:
            if is_complete(os.pread(self._pipes.stacks, _STACK_SIZE, size)):
                break
            time.sleep(_STACK_POLL)
        return os.pread(self._pipes.stacks, _STACK_SIZE, size)

    def _threads_blocking_stacks(self) -> set[str]:
        """Return the threads that block the signal for the stacks."""
        blocking = set()
        for thread in Path(f"/proc/{self.pid}/task").glob("*"):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                mask = (thread / "status").read_bytes().partition(b"SigBlk:")[2].split(maxsplit=1)[0]
                if int(mask, 16) >> THREADS - 1 & 1:
                    blocking.add(thread.name)
        return blocking

    def kill(self) -> None:
        """Kill it and every process in its session."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def folders_with_files(self) -> list[str]:
        """Return the folders in its directory that Azure would keep and that have files; the process must have exited."""
        return [name for name in AZURE_KEEPS if any(files for _, _, files in os.walk(f"{self._directory}/{name}"))]

    def close(self) -> None:
        """Close its descriptors and remove its directory; the process must have exited."""
        self._status.close()
        with self._closing:
            self._pipes.close()
        shutil.rmtree(self._directory, ignore_errors=True)


class _Pipes:
    """The descriptors between a slot and its child; the child's ends are closed here once it has inherited them."""

    def __init__(self) -> None:
        inbox_theirs, self.inbox = os.pipe()
        self.outbox, outbox_theirs = os.pipe()
        self.bell, bell_theirs = os.pipe()
        lifeline_theirs, lifeline = os.pipe()  # the slot's end stays open and nothing is written to it, see child/main_loop.py
        self.status, self.stacks = (os.memfd_create("prefect_parallel_run") for _ in range(2))  # memory that both share
        os.ftruncate(self.status, SIZE)
        os.pwrite(self.status, b"\xff" * 8, 0)  # IDLE
        self.interrupt = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.theirs = (inbox_theirs, outbox_theirs, bell_theirs, lifeline_theirs, self.status, self.stacks)
        for descriptor in (self.inbox, self.outbox, self.bell):
            os.set_blocking(descriptor, False)
        for descriptor in (self.inbox, self.outbox):
            with suppress(OSError):  # over the user's limit: the default size works too, with more wake-ups
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self._open = {*self.theirs, self.inbox, self.outbox, self.bell, self.interrupt, lifeline}

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    def close_child_ends(self) -> None:
        for descriptor in self.theirs[:4]:
            os.close(descriptor)
            self._open.discard(descriptor)

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())


def describe_exit(status: int) -> str:
    """Describe an exit status.

    >>> describe_exit(3), describe_exit(-9)
    ('exited with status 3', 'was killed by SIGKILL')
    """
    return f"was killed by {death_name(status)}" if status < 0 else f"exited with status {status}"


def death_name(status: int) -> str:
    """Return the short name of an exit status or of the signal behind it.

    >>> death_name(3), death_name(-9)
    ('exit status 3', 'SIGKILL')
    """
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
