"""What commands print: results on stdout, what is for people alone on stderr."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable
from typing import Any

from prefect_parallel_run.cli._exit_codes import BrokenOutputError

PROGRAM = "prefect-parallel-run"


def emit(text: str) -> None:
    """Print a line of the result, at once."""
    emit_raw(f"{text}\n")


def emit_raw(text: str) -> None:
    """Print a piece of the result as it is; bytes of paths that are no text come out as they were."""
    try:
        stream = getattr(sys.stdout, "buffer", None)
        if stream is None:
            sys.stdout.write(text)
        else:
            sys.stdout.flush()
            stream.write(_encoded(text))
        sys.stdout.flush()
    except BrokenPipeError:
        close_stdout()
        raise BrokenOutputError from None


def _encoded(text: str) -> bytes:
    try:
        return text.encode(sys.stdout.encoding or "utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a terminal that cannot show it; paths are bytes all the same
        return text.encode("utf-8", "surrogateescape")


def emit_json(facts: Any) -> None:
    """Print a result as JSON."""
    emit(json.dumps(facts, indent=2))


def emit_all(lines: Iterable[str], end: str = "\n") -> None:
    """Print many lines, some at a time."""
    held: list[str] = []
    for line in lines:
        held.append(line + end)
        if len(held) >= 1_000:
            emit_raw("".join(held))
            held.clear()
    if held:
        emit_raw("".join(held))


def emit_array(facts: Iterable[dict[str, Any]]) -> None:
    """Print a JSON array, an element a line; memory stays flat."""
    emit_raw("[")
    emit_all((f"{',' if number else ''}\n{json.dumps(fact)}" for number, fact in enumerate(facts)), "")
    emit("\n]")


def say(text: str) -> None:
    """Tell people something that is no result."""
    sys.stderr.write(f"{text}\n")


def suggest(*commands: tuple[str, str]) -> None:
    """Tell what can be done next: pairs of a command's words and what it does."""
    width = max(len(words) for words, _ in commands)
    for words, does in commands:
        say(f"  {words:<{width}}  # {does}")


def command(name: str, *words: object) -> str:
    """Return a command line of ours as a person would type it.

    >>> command("show", "my runs/a")
    "prefect-parallel-run show 'my runs/a'"
    """
    return shlex.join([PROGRAM, name, *map(str, words)])


def close_stdout() -> None:
    """Have what is still written to stdout go nowhere, the interpreter's own last flush included."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)
