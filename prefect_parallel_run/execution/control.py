"""Applies control commands to a running step: validates, records and acknowledges them, and emits events."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict

from prefect_parallel_run import _units
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.dispatch.events import Continued, ControlCommand, LimitsChanged, Paused, ProcessesChanged
from prefect_parallel_run.runs.commands import Command, CommandRejectedError, LineTail, answer
from prefect_parallel_run.runs.events import CommandHandled, Emit, RunContinued, RunPaused, Warned
from prefect_parallel_run.runs.executions import METADATA_KEY, Overrides
from prefect_parallel_run.runs.ledger import Ledger, RecordedCommand
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.runs.spec import failure_limits

_POLL_INTERVAL = 0.5  #: s between two reads of the commands file
_MAX_REJECTED = 100  #: rejected commands to record per execution, so that garbage in the file does not fill the ledger
_MAX_RECORDED = 200  #: bytes to record of an invalid line


class Control:
    """Applies the control commands for one execution of a run.

    A command names its execution and is recorded in the ledger before it takes effect, so that no command is applied twice,
    and none that is left over from an earlier execution is applied.

    *config* is the step's configuration without changes by commands.
    """

    def __init__(
        self, directory: RunDirectory, execution_id: str, ledger: Ledger, config: ParallelRunConfig, emit: Emit
    ) -> None:
        self._directory, self._execution_id, self._ledger = directory, execution_id, ledger
        self._config, self._emit = config, emit
        self._lines = LineTail(directory.commands)
        self._known = {command.id for command in ledger.commands()}
        self._adjustments = Overrides.of_metadata(ledger.metadata())
        self._is_paused = False
        self._closed_reason = ""  # why no command can be applied any more
        self._rejected = 0
        self._next_poll = 0.0
        self._events: deque[ControlCommand] = deque()  # events that the dispatcher has not taken

    def poll(self) -> None:
        """Apply new commands; may be called at any rate."""
        now = time.monotonic()
        if now < self._next_poll:
            return
        self._next_poll = now + _POLL_INTERVAL
        for offset, line in self._lines.take():
            try:
                command = Command.from_line(line)
            except CommandRejectedError as error:
                self._reject(error.command_id or f"line-{offset}", line, str(error))
            else:
                if command.execution_id == self._execution_id and command.id not in self._known:
                    self._apply(command)

    def events(self) -> Iterator[ControlCommand]:
        """Yield the events of new commands."""
        self.poll()
        while self._events:
            yield self._events.popleft()

    def close(self, reason: str) -> None:
        """Reject all further commands, for the given reason."""
        self._closed_reason = reason

    def _apply(self, command: Command) -> None:
        if self._closed_reason:
            self._record(command, None, self._closed_reason, {})
        elif command.kind in ("pause", "continue"):
            self._pause_or_continue(command)
        else:
            self._adjust(command)

    def _pause_or_continue(self, command: Command) -> None:
        is_pause = command.kind == "pause"
        if is_pause == self._is_paused:
            self._record(command, time.time(), "already paused" if is_pause else "not paused", {})
            return
        self._is_paused = is_pause
        message = "no mini-batch starts until `control continue`" if is_pause else "mini-batches start again"
        now = time.time()
        self._record(command, now, message, {"paused": "1"} if is_pause else {"paused": "0", "continued": str(now)})
        self._events.append(Paused() if is_pause else Continued())
        self._emit(RunPaused() if is_pause else RunContinued())

    def _adjust(self, command: Command) -> None:
        config = self._config.model_dump(include=set(command.values))
        original = {name: self._directory.metadata()["config"].get(name) for name in command.values}
        before = self._adjustments.of(self._config).process_count_per_node
        self._adjustments = self._adjustments.with_values(command.values, config, original)
        adjusted = self._adjustments.of(self._config)
        count = adjusted.process_count_per_node
        if command.kind == "processes" and count is not None:
            message = f"every node now runs {_units.count(count, 'process', 'processes')}"
            if before is None or before > count:
                message += "; surplus processes exit after their current mini-batch"
            event: ControlCommand = ProcessesChanged(count)
        else:
            message = "limits are now " + _describe_limits(adjusted)
            event = LimitsChanged(failure_limits(adjusted), adjusted.mini_batches_per_minute)
        self._record(command, time.time(), message, {METADATA_KEY: json.dumps(self._adjustments.to_values())})
        self._events.append(event)

    def _record(self, command: Command, applied_at: float | None, message: str, changes: Mapping[str, str]) -> None:
        self._known.add(command.id)
        self._ledger.record_command(
            RecordedCommand(command.id, command.at, command.by, command.what, applied_at, message), changes
        )
        self._answer(command.id, message, applied=applied_at is not None)
        self._emit(CommandHandled(str(command), command.by, message))

    def _reject(self, command_id: str, line: bytes, message: str) -> None:
        if command_id in self._known or self._rejected >= _MAX_REJECTED:
            return
        self._known.add(command_id)
        self._rejected += 1
        text = line[:_MAX_RECORDED].decode("utf-8", "backslashreplace")
        self._ledger.record_command(RecordedCommand(command_id, None, None, text, None, message), {})
        self._answer(command_id, message, applied=False)
        self._emit(Warned(f"rejected a control command: {message}"))

    def _answer(self, command_id: str, message: str, *, applied: bool) -> None:
        with suppress(OSError):  # the ledger has it, and the waiting CLI says so
            answer(self._directory.answers, command_id, message, applied=applied, at=time.time())


def _describe_limits(config: ParallelRunConfig) -> str:
    limits: dict[str, float | None] = asdict(failure_limits(config))
    if (pace := config.mini_batches_per_minute) is not None:
        limits["mini_batches_per_minute"] = None if pace < 0 else pace
    return ", ".join(f"{name} {'no limit' if value is None else format(value, 'g')}" for name, value in limits.items())
