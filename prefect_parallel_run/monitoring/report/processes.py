"""Reads the process logs of the nodes, logs/*.processes.jsonl; missing files and unreadable lines are skipped."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_parallel_run._threads import CheckCancelled
from prefect_parallel_run.models import Outcome

_NAME = re.compile(r"(?:r(\d+)\.)?(.+)\.processes\.jsonl")
_MAX_PROCESSES = 50_000  #: to read: a script that crashes in every mini-batch starts one for each
KILLS = (Outcome.TIMED_OUT, Outcome.OUT_OF_MEMORY, Outcome.DIED, "start_failed")  #: reasons of unexpected ends


@dataclass(slots=True)
class Process:
    """The lifetime of one process; times are Unix times in s, None if unknown."""

    execution: int
    node: str
    name: str
    pid: int
    started: float
    slot: int | None = None
    is_standby: bool = False  #: started in advance; got its slot later
    ready: float | None = None
    import_seconds: float = 0.0
    init_seconds: float = 0.0
    ended: float | None = None
    reason: str = ""
    exit: int | None = None


def read_processes(logs: Path, check_cancelled: CheckCancelled) -> tuple[list[Process], bool]:
    """Return the processes of a run, and whether the list is complete."""
    processes: list[Process] = []
    is_complete = True
    if not logs.is_dir():
        return processes, True
    for path in sorted(logs.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        check_cancelled()
        for process in _processes(path, int(match[1] or 1), match[2]):
            if process is None:
                is_complete = False
            elif len(processes) >= _MAX_PROCESSES:
                return processes, False
            else:
                processes.append(process)
    return processes, is_complete


def _processes(path: Path, execution: int, node: str) -> Iterator[Process | None]:
    """Yield the processes of one file, each when its record is complete; None where the node left some out."""
    alive: dict[str, Process] = {}
    for event in _events(path):
        if event.get("event") == "left_out":
            yield None
            continue
        try:
            ended = _apply(alive, execution, node, event)
        except (KeyError, TypeError, ValueError):  # written by another version
            continue
        if ended is not None:
            yield ended
    yield from alive.values()


def _events(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:  # the node was lost while it wrote the line
                continue
            if isinstance(event, dict):
                yield event


def _apply(alive: dict[str, Process], execution: int, node: str, event: dict[str, Any]) -> Process | None:
    """Apply an event to its process; return the process if it ended."""
    kind, name, at = event["event"], str(event["process"]), float(event["at"])
    if kind == "started":
        alive[name] = Process(execution, node, name, int(event["pid"]), at, _slot(event), is_standby=_slot(event) is None)
        return None
    process = alive.get(name)
    if process is None:
        return None
    slot = _slot(event)
    process.slot = process.slot if slot is None else slot
    if kind == "ready":
        process.ready = at
        process.import_seconds = float(event.get("import_seconds") or 0.0)
        process.init_seconds = float(event.get("init_seconds") or 0.0)
    elif kind == "ended":
        exit_status = event.get("exit")
        process.ended, process.reason = at, str(event.get("reason", ""))
        process.exit = None if exit_status is None else int(exit_status)
        return alive.pop(name)
    return None


def _slot(event: dict[str, Any]) -> int | None:
    slot = event.get("slot")
    return None if slot is None else int(slot)
