"""A command of the program: its results on stdout, its messages and errors on stderr, its exit code."""

from __future__ import annotations

import io
import json
import os
import shlex
import sqlite3
import sys
from collections.abc import Iterable
from contextlib import suppress
from enum import IntEnum
from typing import Any

import click

from prefect_parallel_run.errors import ParallelRunError, RunLockedError

RUN_DIR = "RUN_DIR is <output>/_parallel_run/<run> as a path or URL; an output folder stands for its newest run."
_NEXT_STEPS = "prefect_parallel_run.next_steps"  #: key in the context of a command
PROGRAM = "prefect-parallel-run"


class BrokenOutputError(Exception):
    """Broken pipe: the reader of stdout has exited."""


class Exit(IntEnum):
    """The exit code of a command."""

    SUCCESS = 0
    FAILED = 1
    USAGE_ERROR = 2
    RUN_LOCKED = 3
    CANCELLED = 130
    BROKEN_PIPE = 141


MEANING = {
    Exit.SUCCESS: "success",
    Exit.FAILED: "the run failed (limit exceeded, no successes, lost cluster or disk), or the check found a problem",
    Exit.USAGE_ERROR: "usage error: an invalid option, configuration file or field",
    Exit.RUN_LOCKED: "another process has locked the run",
    Exit.CANCELLED: "cancelled by Ctrl-C or SIGTERM; continue with resume",
    Exit.BROKEN_PIPE: "broken pipe: the reader of the output exited (| head)",
}
_CODES: dict[type[BaseException], Exit] = {  #: the first class that matches
    KeyboardInterrupt: Exit.CANCELLED,
    BrokenOutputError: Exit.BROKEN_PIPE,
    RunLockedError: Exit.RUN_LOCKED,
    ParallelRunError: Exit.FAILED,
    sqlite3.Error: Exit.FAILED,
    OSError: Exit.FAILED,
    ValueError: Exit.USAGE_ERROR,
}


def exit_code_of(error: BaseException) -> Exit | None:
    """Return the exit code for an error; None for an unexpected error: a bug, whose traceback must be shown."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), None)


class Command(click.Command):
    """A command with ``--json`` whose function returns an exit code, or None for success."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params.append(click.Option(["--json", "as_json"], is_flag=True, help="Print only JSON on stdout."))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments of the command line."""
        if "--" in args:
            ctx.fail("arguments after -- are only for the commands run, plan and try, which pass them to the script")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command and return its exit code; report an expected error."""
        try:
            return self.execute(ctx) or Exit.SUCCESS
        except tuple(_CODES) as error:
            code = exit_code_of(error)
            if code is not Exit.BROKEN_PIPE:
                _report(error, ctx)
            return code

    def execute(self, ctx: click.Context) -> Any:
        """Call the function of the command."""
        return super().invoke(ctx)


def suggest_after_error(commands: list[tuple[str, str]]) -> None:
    """Suggest next steps below the error that ends this command: pairs of a command line and its effect."""
    click.get_current_context().meta[_NEXT_STEPS] = commands


def _report(error: BaseException, ctx: click.Context) -> None:
    """Print the error on stderr, and with --json also as JSON on stdout."""
    message = _message(error, str(ctx.params.get("run_directory", "")))
    next_steps = ctx.meta.get(_NEXT_STEPS, [])
    notify(message)
    if next_steps:
        suggest(*next_steps)
    if ctx.params["as_json"]:
        kind = "Cancelled" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        attributes = vars(error) if isinstance(error, ParallelRunError) else {}
        try:
            emit_json({"error": {"type": kind, "message": message, **attributes}, "next": [line for line, _ in next_steps]})
        except BrokenOutputError:
            return


def _message(error: BaseException, path: str) -> str:
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "cancelled"
    if isinstance(error, ParallelRunError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, sqlite3.Error):
        return f"{path}: the ledger cannot be read: {error}"
    if isinstance(error, OSError):
        path = str(error.filename or path)
        return f"{path}: {error.strerror or error}" if path and error.strerror else str(error)
    return str(error)


def emit(text: str) -> None:
    """Print one line of the result and flush."""
    emit_raw(f"{text}\n")


def emit_raw(text: str) -> None:
    """Print part of the result unchanged; paths that are not valid text keep their bytes."""
    stream = getattr(sys.stdout, "buffer", None)
    if stream is None:
        sys.stdout.write(text)
    else:
        sys.stdout.flush()
        stream.write(_encode(text))
    sys.stdout.flush()


def _encode(text: str) -> bytes:
    try:
        return text.encode(sys.stdout.encoding or "utf-8", "surrogateescape")
    except UnicodeEncodeError:  # the terminal cannot show it, but paths are bytes
        return text.encode("utf-8", "surrogateescape")


def emit_result(text: str, document: Any, *, as_json: bool) -> None:
    """Print a result as *text*, or as indented JSON."""
    emit(json.dumps(document, indent=2) if as_json else text)


def emit_json(value: Any) -> None:
    """Print *value* as indented JSON."""
    emit_result("", value, as_json=True)


def emit_all(lines: Iterable[str], end: str = "\n") -> None:
    """Print many lines in blocks of 1,000."""
    block: list[str] = []
    for line in lines:
        block.append(line + end)
        if len(block) >= 1_000:
            emit_raw("".join(block))
            block.clear()
    if block:
        emit_raw("".join(block))


def emit_array(elements: Iterable[dict[str, Any]]) -> None:
    """Print a JSON array, one element per line; memory stays flat."""
    emit_raw("[")
    emit_all((f"{',' if index else ''}\n{json.dumps(element)}" for index, element in enumerate(elements)), "")
    emit("\n]")


def notify(text: str) -> None:
    """Print a message for people to stderr."""
    sys.stderr.write(f"{text}\n")


def suggest(*commands: tuple[str, str]) -> None:
    """Print next steps: pairs of a command line and its effect."""
    width = max(len(line) for line, _ in commands)
    for line, effect in commands:
        notify(f"  {line:<{width}}  # {effect}")


def command(name: str, *arguments: object) -> str:
    """Return a command line of this program, quoted for a shell.

    >>> command("show", "my runs/a")
    "prefect-parallel-run show 'my runs/a'"
    """
    return shlex.join([PROGRAM, name, *map(str, arguments)])


def guard_standard_streams() -> None:
    """Prepare the standard streams of the program for a caller that has closed them, and for readers that exit early.

    A stream that is closed from the start becomes the null device: otherwise the next file to be opened would get its
    descriptor, and with it what child processes print. Messages to a reader that has exited are dropped; results raise
    BrokenOutputError, wherever they are printed.
    """
    for name in ("stdin", "stdout", "stderr"):  # in the order of their descriptors: the lowest free one is opened
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "r" if name == "stdin" else "w", errors="backslashreplace")  # noqa: SIM115, PTH123  stays open
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
        elif name != "stdin" and stream is getattr(sys, f"__{name}__"):  # not replaced by a caller
            setattr(sys, name, _guarded(stream))


def _guarded(stream: Any) -> io.TextIOWrapper:
    """Return a stream like *stream*, on the same descriptor."""
    with suppress(OSError):
        stream.flush()  # what an embedding program has printed before comes first
    return io.TextIOWrapper(
        io.BufferedWriter(_StandardOutput(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,  # the latter with PYTHONUNBUFFERED
    )


class _StandardOutput(io.FileIO):
    """The descriptor of stdout or stderr, which becomes the null device when it cannot be written to."""

    def write(self, data: Any) -> int:
        """Write *data*; for stdout, raise BrokenOutputError if the reader of its pipe has exited, else OSError."""
        try:
            return super().write(data)
        except OSError as error:  # what could not be written stays in the buffer: it must not fail again at the exit
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, self.fileno())
            os.close(sink)
            if self.fileno() != 1:  # a message
                return len(data)
            if isinstance(error, BrokenPipeError):
                raise BrokenOutputError from None
            raise OSError(error.errno, error.strerror, "stdout") from None
