"""Output of the commands: results on stdout, messages for people on stderr."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable
from typing import Any

PROGRAM = "prefect-parallel-run"


class BrokenOutputError(Exception):
    """Broken pipe: the reader of stdout has exited."""


def emit(text: str) -> None:
    """Print one line of the result and flush."""
    emit_raw(f"{text}\n")


def emit_raw(text: str) -> None:
    """Print part of the result unchanged; paths that are not valid text keep their bytes."""
    try:
        stream = getattr(sys.stdout, "buffer", None)
        if stream is None:
            sys.stdout.write(text)
        else:
            sys.stdout.flush()
            stream.write(_encode(text))
        sys.stdout.flush()
    except BrokenPipeError:
        close_stdout()
        raise BrokenOutputError from None


def _encode(text: str) -> bytes:
    try:
        return text.encode(sys.stdout.encoding or "utf-8", "surrogateescape")
    except UnicodeEncodeError:  # the terminal cannot show it, but paths are bytes
        return text.encode("utf-8", "surrogateescape")


def emit_json(value: Any) -> None:
    """Print *value* as indented JSON."""
    emit(json.dumps(value, indent=2))


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


def close_stdout() -> None:
    """Redirect further writes to stdout to the null device, the interpreter's final flush included."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)
