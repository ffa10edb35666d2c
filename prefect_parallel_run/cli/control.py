"""``control``: sends a command to a running step and prints the answer."""

from __future__ import annotations

import getpass
import os
import socket
import time
import uuid
from typing import Any

import click

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.cli._command import Exit, emit_result
from prefect_parallel_run.cli._run_command import RunCommand, config_option, resolve_run
from prefect_parallel_run.errors import ParallelRunError
from prefect_parallel_run.runs.commands import FIELDS, LIMITS, PROCESSES, Command, LineTail, append, check, find_answer
from prefect_parallel_run.runs.run_directory import RunDirectory, local_run_path, no_run_error

_EPILOG = """\
\b
pause        start no further mini-batch; running ones continue
continue     start mini-batches again
limits       change the limits that the options name
processes N  set the number of processes per node to N"""
ANSWER_TIMEOUT = 10.0  #: s; a running step answers within about a second
_POLL_INTERVAL = 0.1  #: s between two checks for the answer


@click.command(cls=RunCommand, epilog=_EPILOG, params=[config_option(name) for name in LIMITS])
@click.argument("kind", type=click.Choice(list(FIELDS)))
@click.argument("processes", type=int, required=False, metavar="[N]")
def control(run_directory: str, kind: str, processes: int | None, as_json: bool, **limits: float | None) -> Exit:
    """Pause a running step, or change its limits or its number of processes. Succeeds only if the step applied the command."""
    values = {name: value for name, value in {**limits, PROCESSES: processes}.items() if value is not None}
    check(kind, values, _argument)
    answer = send_command(resolve_run(run_directory), kind, values)
    emit_result(answer["answer"], answer, as_json=as_json)
    return Exit.SUCCESS if answer["applied"] else Exit.FAILED


def _argument(field: str) -> str:
    return "N, the number of processes per node" if field == PROCESSES else f"--{field.replace('_', '-')}"


class RunNotActiveError(ParallelRunError):
    """A control command was sent to a run that cannot receive it; *reason* says what to do."""

    def __init__(self, run_directory: str, reason: str) -> None:
        super().__init__(run_directory, reason)
        self.run_directory, self.reason = run_directory, reason

    def __str__(self) -> str:
        return f"run {self.run_directory}: {self.reason}"


def send_command(path: str, kind: str, values: dict[str, float], timeout: float = ANSWER_TIMEOUT) -> dict[str, Any]:
    """Send a control command to a run and return its answer.

    Args:
        path: Path or URL of the run directory.
        kind: pause, continue, limits or processes.
        values: New values by configuration field, for limits and processes.
        timeout: s to wait for the answer.

    Returns:
        ``order``, ``id``, ``applied`` (None: not answered yet), ``answer`` (a sentence) and ``seconds``.

    Raises:
        ValueError: The command or one of its values is invalid.
        NoRunError: The run directory does not exist.
        RunNotActiveError: No process executes the run, or it executes on another machine.
    """
    began = time.monotonic()
    sender = f"{getpass.getuser()}@{socket.gethostname()}/{os.getpid()}"
    check(kind, values)  # report invalid values before anything else
    directory = _run_directory(path)
    execution_id = _execution_id(path, directory)
    command = Command(id=uuid.uuid4().hex, at=time.time(), by=sender, execution_id=execution_id, kind=kind, values=values)
    answers = LineTail(directory.answers)
    append(directory.commands, command.to_line())
    answer = None
    while answer is None and time.monotonic() - began < timeout:
        time.sleep(_POLL_INTERVAL)
        answer = find_answer(answers, command.id)
    if answer is None:
        answer = {"applied": None, "answer": _no_answer_message(directory, timeout)}
    seconds = round(time.monotonic() - began, 2)
    outcome = {"applied": answer["applied"], "answer": answer["answer"]}
    return {"order": str(command), "id": command.id, **outcome, "seconds": seconds}


def _run_directory(path: str) -> RunDirectory:
    directory = RunDirectory(local_run_path(path))
    if directory.description.is_file():
        return directory
    if is_remote(path):
        reason = f"it does not run on this machine: there is no working copy {directory.path}"
        raise RunNotActiveError(path, f"{reason}; send the command on the machine of the flow process, with its PREFECT_HOME")
    raise no_run_error(path, directory)


def _execution_id(path: str, directory: RunDirectory) -> str:
    """Return the id of the execution in progress."""
    deadline = time.monotonic() + 1.0
    while (owner := directory.owner()) is not None:
        if owner["driver"]:
            return str(owner["driver"])
        if time.monotonic() > deadline:  # not just starting: a new execution writes its id within a second
            raise RunNotActiveError(
                path,
                f"it is executed by process {owner['pid']} on {owner['host']},"
                " whose version of prefect_parallel_run cannot receive commands",
            )
        time.sleep(_POLL_INTERVAL)
    if directory.receipt.exists():
        raise RunNotActiveError(path, "already finished; there is nothing to control")
    reason = "no process executes it; to continue it, also with other limits or processes, use"
    raise RunNotActiveError(path, f"{reason} prefect-parallel-run resume {path}")


def _no_answer_message(directory: RunDirectory, timeout: float) -> str:
    if directory.owner() is None:
        return "the run ended before it could apply the command; nothing has changed"
    message = f"no answer from the run within {timeout:g} s; it applies the command as soon as it can"
    return f"{message}, and writes the answer to {directory.answers}"
