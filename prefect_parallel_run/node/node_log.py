"""What a node writes about itself and its children, and reads of what these write: on one thread, away from every mini-batch.

It writes, beside the files of log_files.py:

``processes.jsonl``: a line when a child is started, ready, ended, and when the node's guardian is replaced. At most 20,000 of
them, the last of which says that there are no more.
``resources.csv``: what the machine uses, in the columns of machine.HEADER; a line every second at first, then ever more rarely.

The names have the node's in front. Nothing that goes wrong here harms the run: a disk that is full is told once, and ends the
writing, but not the shortening.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from prefect_parallel_run._backoff import BackoffTimer
from prefect_parallel_run.node.child_startup import describe_exit
from prefect_parallel_run.node.log_files import LogFiles
from prefect_parallel_run.node.process_log import ProcessLog
from prefect_parallel_run.node.resource_usage import HEADER, Machine
from prefect_parallel_run.node.script_lines import LogBatch, ScriptLines
from prefect_parallel_run.node.settings import NodeSettings

MOST_EVENTS = 20_000  #: lines
_LOOK = 0.25  #: s between two looks
_SOON = 0.05  #: s to the next one while much is printed
_MUCH = 4 << 20  #: bytes between two looks
_ENDED_EVERY = 5.0  #: s between two looks at files of processes that have ended
_LAST_WORDS = 1.0  #: s for children that are being ended to be gone
_PATIENCE = 2.0  #: s for the last look; a disk that hangs must not hold up the run's end
_REPEATED = 10.0  #: s of what was told lately that the last word repeats: it may overtake what is still on its way


class NodeLog:
    """Keeps the logs of one node.

    Args:
        settings: Of the node.
        lives: Of its children.
    """

    def __init__(self, settings: NodeSettings, lives: ProcessLog) -> None:
        folder = f"{settings.run_directory}/logs"
        self._lives, self._files = lives, LogFiles(folder)
        self._events = f"{folder}/{settings.prefix}processes.jsonl"
        self._samples = f"{folder}/{settings.prefix}resources.csv"
        self._machine = Machine(folder)
        self._lines = ScriptLines(settings.node, logging.getLevelName(settings.logging_level))
        self._written = 0  # events
        self._is_writing = True
        self._has_told_trouble = self._has_told_replaced = False
        self._told_losses: set[str] = set()  # folders
        self._pace = BackoffTimer(time.monotonic() + 1.0)
        self._look_at_ended = 0.0  # monotonic clock, s
        self._tell: Callable[[LogBatch], None] | None = None
        self._recent: deque[tuple[float, LogBatch]] = deque()  # told lately
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="node-log", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def tell_to(self, tell: Callable[[LogBatch], None]) -> None:
        """Have *tell* called, on the thread of the log, with what the scripts have logged so far and log from now on."""
        self._tell = tell

    def close(self) -> None:
        """Write what is left; the children have been ended."""
        self._lives.wait_for_all_ends(_LAST_WORDS)
        self._is_over.set()
        self._thread.join(_PATIENCE)

    def last_said(self) -> list[LogBatch]:
        """Return what the scripts have logged lately, in order: what nobody was told yet, and some of what was."""
        return [said for _, said in list(self._recent)]

    def _keep(self) -> None:
        pause = _LOOK
        while not self._is_over.wait(pause):
            self._files.grown = 0
            self._look(time.monotonic())
            if self._tell is not None:
                self._pass_on(self._tell)
            pause = _SOON if self._files.grown > _MUCH else _LOOK
        self._look(time.monotonic())
        self._sample()
        self._pass_on(None)

    def _look(self, now: float) -> None:
        events = self._lives.take()
        if events:
            self._attempt(lambda: self._write(events))
        for event in events:
            if event["event"] == "files_lost":
                self._tell_loss(event["folder"])
            if event["event"] == "guardian_replaced":
                self._tell_replaced(event["exit"])
            if event["event"] == "ended":
                self._attempt(lambda event=event: self._note_end(event["process"], event["slot"], now))  # type: ignore[misc]
        for life in self._lives.living:
            self._attempt(lambda process=life.process: self._look_at(process, now))  # type: ignore[misc]
        if now >= self._look_at_ended:
            self._look_at_ended = now + _ENDED_EVERY
            self._attempt(self._files.shorten_ended)
        if self._pace.is_due(now):
            self._sample()

    def _look_at(self, process: str, now: float) -> None:
        self._lines.read(process, self._files.path(process, ".log"), now)
        if (cut := self._files.shorten(process)) is not None:
            self._lines.note_cut(process, cut)

    def _note_end(self, process: str, slot: int | None, now: float) -> None:
        self._lines.finish(process, self._files.path(process, ".log"), now)
        self._files.shorten(process)
        self._files.shelve(process, slot)

    def _tell_loss(self, folder: str) -> None:
        """Tell, once per folder, that files of the script are gone that Azure would keep."""
        if folder not in self._told_losses:
            self._told_losses.add(folder)
            words = f"the script has left files in ./{folder} of its working directory, which is removed with its process"
            self._lines.add(logging.WARNING, f"{words}: write what is to stay to {{output}}, or below EntryScript().output_dir")

    def _tell_replaced(self, status: int) -> None:
        """Tell, once, that a guardian was lost."""
        if not self._has_told_replaced:
            self._has_told_replaced = True
            words = f"its guardian, the process that ends its children if this worker ends, {describe_exit(status)}"
            self._lines.add(logging.WARNING, f"{words}; it was replaced")

    def _write(self, events: list[dict[str, object]]) -> None:
        left = MOST_EVENTS - self._written
        if len(events) >= left > 0:
            words = f"no more than {MOST_EVENTS} lines are written"
            events = [*events[: left - 1], {"event": "left_out", "at": time.time(), "reason": words}]
        self._written += len(events)
        if left > 0:
            self._append(self._events, "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in events))

    def _sample(self) -> None:
        def sample() -> None:
            header = "" if Path(self._samples).exists() else HEADER
            pids = [life.pid for life in self._lives.living]
            self._append(self._samples, header + self._machine.sample(time.time(), pids))

        self._attempt(sample)

    def _append(self, path: str, text: str) -> None:
        if self._is_writing:
            try:
                with open(path, "ab", buffering=0) as file:  # noqa: PTH123  in one write
                    file.write(text.encode())
            except OSError:
                self._is_writing = False
                raise

    def _attempt(self, do: Callable[[], None]) -> None:
        """Do it; the first time that a disk refuses is told."""
        try:
            do()
        except OSError as error:
            if not self._has_told_trouble:
                self._has_told_trouble = True
                self._lines.add(logging.WARNING, f"its logs are not complete: {error}")

    def _pass_on(self, tell: Callable[[LogBatch], None] | None) -> None:
        now = time.monotonic()
        while self._recent and self._recent[0][0] < now - _REPEATED:
            self._recent.popleft()
        if (said := self._lines.take()) is not None:
            self._recent.append((now, said))
            if tell is not None:
                tell(said)
