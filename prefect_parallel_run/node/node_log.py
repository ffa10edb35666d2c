"""The logs of a node, written and read on one thread, apart from the mini-batches.

It writes, beside the files of log_files.py:

``processes.jsonl``: a line when a child is started, ready or ended, and when the node's reaper is replaced. At most 20,000
lines, the last of which says that the rest is left out.
``resources.csv``: resource usage of the machine, in the columns of HEADER; every second at first, then less and less often.

The node's name is the prefix of both names. Errors here do not affect the run: a full disk is logged once and stops the
writing, but not the rotation.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

import psutil

from prefect_parallel_run._rate_limit import BackoffTimer
from prefect_parallel_run.node.child_process import describe_exit
from prefect_parallel_run.node.log_files import LogBatch, LogFiles, ScriptLines
from prefect_parallel_run.node.settings import NodeSettings

HEADER = "time,cpu_percent,memory_used,memory_total,processes,processes_memory,disk_free\n"
MOST_EVENTS = 20_000  #: lines
_POLL_INTERVAL = 0.25  #: s
_SHORT_INTERVAL = 0.05  #: s, while the scripts print a lot
_MUCH = 4 << 20  #: bytes printed between two polls
_ENDED_INTERVAL = 5.0  #: s between two polls of the files of ended processes
_EXIT_WAIT = 1.0  #: s for killed children to exit
_PATIENCE = 2.0  #: s for the last poll; a hanging disk must not delay the end of the run
_REPEATED = 10.0  #: s of published log lines that the shutdown report repeats: it may overtake batches in transit


class NodeLog:
    """Writes the logs of one node, with the events of its children in *process_log*."""

    def __init__(self, settings: NodeSettings, process_log: ProcessLog) -> None:
        self._folder = f"{settings.run.directory}/logs"
        self._process_log, self._files = process_log, LogFiles(self._folder)
        self._events = f"{self._folder}/{settings.prefix}processes.jsonl"
        self._samples = f"{self._folder}/{settings.prefix}resources.csv"
        self._lines = ScriptLines(settings.node.name, logging.getLevelName(settings.script.logging_level))
        self._written = 0  # events
        self._is_writing = True
        self._warned: set[str] = set()  # of what a warning was logged
        self._sample_timer = BackoffTimer(time.monotonic() + 1.0)
        self._next_ended_poll = 0.0  # monotonic clock, s
        self._callback: Callable[[LogBatch], None] | None = None
        self._recent: deque[tuple[float, LogBatch]] = deque()  # published lately
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node-log", daemon=True)

    def start(self) -> None:
        """Start the log's thread."""
        self._thread.start()

    def on_script_log(self, callback: Callable[[LogBatch], None]) -> None:
        """Call *callback*, on the log's thread, with all log lines of the scripts, past and future."""
        self._callback = callback

    def close(self) -> None:
        """Write the remaining events; the children have been stopped."""
        self._process_log.wait_until_all_exited(_EXIT_WAIT)
        self._is_closed.set()
        self._thread.join(_PATIENCE)

    def recent_logs(self) -> list[LogBatch]:
        """Return the latest log lines in order: all unpublished ones, and some that were published."""
        return [batch for _, batch in list(self._recent)]

    def _run(self) -> None:
        psutil.cpu_percent()  # the next call on this thread returns the usage since this one
        pause = _POLL_INTERVAL
        while not self._is_closed.wait(pause):
            self._files.grown = 0
            self._poll(time.monotonic())
            if self._callback is not None:
                self._publish(self._callback)
            pause = _SHORT_INTERVAL if self._files.grown > _MUCH else _POLL_INTERVAL
        self._poll(time.monotonic())
        self._sample()
        self._publish(None)

    def _poll(self, now: float) -> None:
        events = self._process_log.drain()
        with self._warning_of_errors():
            self._write(events)
        for event in events:
            self._handle(event, now)
        for record in self._process_log.living:
            with self._warning_of_errors():
                self._lines.read(record.process, self._files.path(record.process, ".log"), now)
                if (cut := self._files.shorten(record.process)) is not None:
                    self._lines.note_cut(record.process, cut)
        if now >= self._next_ended_poll:
            self._next_ended_poll = now + _ENDED_INTERVAL
            with self._warning_of_errors():
                self._files.shorten_ended()
        if self._sample_timer.is_due(now):
            self._sample()

    def _handle(self, event: dict[str, Any], now: float) -> None:
        match event["event"]:
            case "files_lost":  # Azure would keep them
                place = f"./{event['folder']} of its working directory, which is deleted with its process"
                advice = "write files to keep to {output} or EntryScript().output_dir"
                self._warn_once(place, f"the script left files in {place}: {advice}")
            case "guardian_replaced":
                reaper = "its reaper, the process that kills its children when this worker exits,"
                self._warn_once("reaper", f"{reaper} {describe_exit(event['exit'])}; it was replaced")
            case "ended":
                with self._warning_of_errors():
                    self._lines.finish(event["process"], self._files.path(event["process"], ".log"), now)
                    self._files.shorten(event["process"])
                    self._files.retire(event["process"], event["slot"])

    def _write(self, events: list[dict[str, Any]]) -> None:
        remaining = MOST_EVENTS - self._written
        if len(events) >= remaining > 0:
            reason = f"at most {MOST_EVENTS} lines are written"
            events = [*events[: remaining - 1], {"event": "left_out", "at": time.time(), "reason": reason}]
        self._written += len(events)
        if events and remaining > 0:
            self._append(self._events, "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in events))

    def _sample(self) -> None:
        """Add a line about the machine; child processes of the children are not counted."""
        memory = psutil.virtual_memory()
        used = memory.total - memory.available  # memory that can be reclaimed is not in use
        sizes = [record.resident() for record in self._process_log.living]
        header = "" if Path(self._samples).exists() else HEADER
        with self._warning_of_errors():
            free = psutil.disk_usage(self._folder).free
            usage = f"{psutil.cpu_percent():.1f},{used},{memory.total},{len(sizes)},{sum(sizes)},{free}"
            self._append(self._samples, f"{header}{time.time():.3f},{usage}\n")

    def _append(self, path: str, text: str) -> None:
        if not self._is_writing:
            return
        try:
            with open(path, "ab", buffering=0) as file:  # noqa: PTH123  unbuffered, so that each line is one write
                file.write(text.encode())
        except OSError:
            self._is_writing = False
            raise

    @contextmanager
    def _warning_of_errors(self) -> Iterator[None]:
        """Log an OSError instead of raising it; only the first."""
        try:
            yield
        except OSError as error:
            self._warn_once("logs", f"its logs are incomplete: {error}")

    def _warn_once(self, about: str, text: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            self._lines.add(logging.WARNING, text)

    def _publish(self, callback: Callable[[LogBatch], None] | None) -> None:
        now = time.monotonic()
        while self._recent and self._recent[0][0] < now - _REPEATED:
            self._recent.popleft()
        if (batch := self._lines.drain()) is not None:
            self._recent.append((now, batch))
            if callback is not None:
                callback(batch)


class ProcessLog:
    """Records when a node's children start, become ready and exit, and why. Thread-safe; never waits for a disk."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._living: dict[str, ProcessRecord] = {}  # by process
        self._changed = threading.Condition()

    @property
    def living(self) -> list[ProcessRecord]:
        """Return the children that have not exited."""
        with self._changed:
            return list(self._living.values())

    def add(self, process: str, pid: int, slot: int | None, threads: str) -> ProcessRecord:
        """Record that the child called *process* was started, in *slot* or (None) as a standby child.

        It may use *threads* threads, as OMP_NUM_THREADS says.
        """
        record = ProcessRecord(self, process, pid, slot)
        with self._changed:
            self._living[process] = record
            self.add_event("started", process, pid=pid, slot=slot, threads=threads)
        return record

    def remove(self, record: ProcessRecord, reason: str, status: int | None) -> None:
        """Record that a child has exited; only the first call counts."""
        with self._changed:
            if self._living.pop(record.process, None) is not None:
                self.add_event("ended", record.process, slot=record.slot, reason=reason, exit=status)
            self._changed.notify_all()

    def add_event(self, event: str, process: str, **details: Any) -> None:
        """Queue an event for writing."""
        self._events.put({"event": event, "at": time.time(), "process": process, **details})

    def drain(self) -> list[dict[str, Any]]:
        """Return the events since the last call, in time order."""
        return sorted((self._events.get_nowait() for _ in range(self._events.qsize())), key=itemgetter("at"))

    def wait_until_all_exited(self, seconds: float) -> None:
        """Return when every child has exited, or after *seconds*."""
        with self._changed:
            self._changed.wait_for(lambda: not self._living, seconds)


class ProcessRecord:
    """One child: its name, its process id and its slot, which is None while it stands by."""

    def __init__(self, log: ProcessLog, process: str, pid: int, slot: int | None) -> None:
        self._log = log
        self.process, self.pid, self.slot = process, pid, slot
        self._usage = psutil.Process(pid)

    def resident(self) -> int:
        """Return its resident memory, bytes; 0 after it has exited."""
        try:
            return int(self._usage.memory_info().rss)
        except psutil.NoSuchProcess:
            return 0

    def peak(self) -> int:
        """Return the largest resident memory that it has had, bytes; 0 after it has exited."""
        with suppress(FileNotFoundError, ProcessLookupError, IndexError):  # IndexError: it exits
            status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace")  # psutil lacks this value
            return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) << 10
        return 0

    def ready(self, slot: int, import_seconds: float, init_seconds: float) -> None:
        """Record that init() has returned and that the child works in *slot*."""
        self.slot = slot
        seconds = {"import_seconds": round(import_seconds, 3), "init_seconds": round(init_seconds, 3)}
        self._log.add_event("ready", self.process, slot=slot, **seconds)

    def files_lost(self, folder: str) -> None:
        """Record that the child left files in a folder of its working directory, which is deleted."""
        self._log.add_event("files_lost", self.process, folder=folder)

    def ended(self, reason: str, status: int | None) -> None:
        """Record the exit with its status, or the negative number of the signal that killed the child.

        *reason* is shut_down, stopped, timed_out, out_of_memory, died, start_failed, unneeded or retired; the first counts.
        """
        self._log.remove(self, reason, status)
