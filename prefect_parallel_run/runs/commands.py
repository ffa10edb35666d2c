"""Commands that users send to a running step: their values, their validation, and the two files that carry them.

One file in the run directory takes commands, the other returns answers. Every user with write permission there may send
commands; the flow process reads them and trusts nothing that it reads. Both files are append-only, with one write per line, so
that several users can send commands concurrently from any host that sees the directory.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect_parallel_run._units import is_int, is_number, shown

LONGEST = 4_096  #: bytes per line
PACE = "mini_batches_per_minute"
LIMITS = ("error_threshold", "allowed_failed_count", "allowed_failed_percent", PACE)
PROCESSES = "process_count_per_node"
_MOST = 1 << 53  #: the greatest integer that JSON holds exactly
_MOST_PROCESSES = 1_024  #: per node: a typing error must not take a machine down
_ID = re.compile(r"[0-9a-f]{32}")
_LONGEST_NAME = 300  #: characters

_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "error_threshold": ("an integer, -1 (no limit) or greater", lambda value: is_int(value) and -1 <= value <= _MOST),
    "allowed_failed_count": ("an integer, -1 (no limit) or greater", lambda value: is_int(value) and -1 <= value <= _MOST),
    "allowed_failed_percent": ("a number from 0 to 100 (no limit)", lambda value: is_number(value) and 0 <= value <= 100),
    PACE: ("a number above 0, or -1 (no limit)", lambda value: is_number(value) and (value > 0 or value == -1)),
    PROCESSES: (f"an integer from 1 to {_MOST_PROCESSES}", lambda value: is_int(value) and 1 <= value <= _MOST_PROCESSES),
}
FIELDS: dict[str, tuple[str, ...]] = {"pause": (), "continue": (), "limits": LIMITS, "processes": (PROCESSES,)}  #: by kind
_BLOCK_SIZE = 64 * 1024  #: bytes per read


class CommandRejectedError(ValueError):
    """A command is invalid; *command_id* is its id, if it has one."""

    def __init__(self, reason: str, command_id: str | None = None) -> None:
        super().__init__(reason)
        self.command_id = command_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command that a user sends to a running step."""

    id: str  #: 32 hexadecimal digits
    at: float  #: Unix time, s
    by: str  #: user@host/process
    execution_id: str  #: id of the execution that it is for: a later execution must ignore it
    kind: str  #: pause, continue, limits, processes
    values: Mapping[str, float] = field(default_factory=dict)  #: for limits and processes, by configuration field

    def __post_init__(self) -> None:
        check(self.kind, self.values)

    def __str__(self) -> str:
        return _format(self.kind, self.values)

    @property
    def what(self) -> str:
        """Return kind and values as JSON."""
        return json.dumps({self.kind: dict(self.values)})

    def to_line(self) -> bytes:
        """Return the command as one line of JSON."""
        order = {self.kind: dict(self.values)}
        record = {"id": self.id, "at": self.at, "by": self.by, "driver": self.execution_id, "order": order}
        return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Command:
        """Return the command that ``to_line`` wrote.

        Raises:
            CommandRejectedError: The line is not a valid command.
        """
        if len(line) > LONGEST:
            raise CommandRejectedError(f"expected a command of at most {LONGEST} bytes, got a longer line")
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise CommandRejectedError(f"{shown(line)} is not JSON") from None
        if not isinstance(record, dict) or not (isinstance(record.get("id"), str) and _ID.fullmatch(record["id"])):
            raise CommandRejectedError(f"{shown(line)} is not a JSON object with an id")
        try:
            return cls._from_record(record)
        except ValueError as error:
            raise CommandRejectedError(str(error), record["id"]) from None

    @classmethod
    def _from_record(cls, record: dict[str, Any]) -> Command:
        if record.keys() != {"id", "at", "by", "driver", "order"}:
            raise ValueError(f"expected the keys id, at, by, driver, order, got {shown(sorted(record))}")
        for name in ("by", "driver"):
            value = record[name]
            if not (isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_NAME):
                raise ValueError(f"{name}: expected a printable string, got {shown(value)}")
        if not is_number(record["at"]):
            raise ValueError(f"at: expected seconds, got {shown(record['at'])}")
        order = record["order"]
        if not (isinstance(order, dict) and len(order) == 1 and all(isinstance(values, dict) for values in order.values())):
            raise ValueError(f"order: expected one of {', '.join(FIELDS)} with its values, got {shown(order)}")
        ((kind, values),) = order.items()
        return cls(
            id=record["id"], at=float(record["at"]), by=record["by"], execution_id=record["driver"], kind=kind, values=values
        )


def describe_command(what: str) -> str:
    """Return a command as people read it, from its form in the ledger; an invalid one is returned as it is.

    >>> describe_command('{"limits": {"error_threshold": 10}}'), describe_command('{"pause": {}}'), describe_command("rubbish")
    ('limits error_threshold=10', 'pause', 'rubbish')
    """
    try:
        ((kind, values),) = json.loads(what).items()
        return _format(kind, values)
    except (ValueError, AttributeError, TypeError):  # no JSON, or JSON of another shape
        return what


def _format(kind: str, values: Mapping[str, float]) -> str:
    return " ".join([kind, *(f"{name}={value:g}" for name, value in values.items())])


def check(kind: str, values: Mapping[str, Any], label: Callable[[str], str] | None = None) -> None:
    """Raise ValueError when a command is invalid.

    *label* returns a field's name as the sender writes it, for errors about missing or unexpected fields.

    >>> check("limits", {"error_threshold": -1})
    >>> check("processes", {"process_count_per_node": 0})
    Traceback (most recent call last):
    ...
    ValueError: process_count_per_node: expected an integer from 1 to 1024, got 0
    """
    if kind not in FIELDS:
        raise ValueError(f"order: expected one of {', '.join(FIELDS)}, got {shown(kind)}")
    fields = FIELDS[kind]
    if not values.keys() <= set(fields) or bool(values) != bool(fields):
        several = "one or more of " if len(fields) > 1 else ""
        expected = f"{several}{', '.join(map(label or str, fields))}" if fields else "no values"
        found = map(label or shown, values)  # without a label they are from a file, which may have anything
        raise ValueError(f"{kind}: expected {expected}, got {', '.join(found) or 'nothing'}")
    for name, value in values.items():
        expected, is_valid = _EXPECTED[name]
        if not is_valid(value):
            raise ValueError(f"{name}: expected {expected}, got {shown(value)}")


class LineTail:
    """Yields lines appended to a file since the last read; none while it is missing or not a regular file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._in_long_line = False  # whose first part has been yielded

    def take(self) -> Iterator[tuple[int, bytes]]:
        """Yield the offset of each new line, and the line; only the first part of an overlong line."""
        chunk = self._read()
        offset, self._offset = self._offset, self._offset + len(chunk)
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            if line.strip() and not self._in_long_line:
                yield offset, line[: LONGEST + 1]
            self._in_long_line = False
            offset += len(line) + 1
        if len(rest) <= LONGEST:  # it may be incomplete
            self._offset -= len(rest)
        elif not self._in_long_line:
            self._in_long_line = True
            yield offset, rest[: LONGEST + 1]

    def _read(self) -> bytes:
        try:
            status = self._path.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size == self._offset:
                return b""
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # missing, or not readable for this user
            return b""
        try:
            if status.st_size < self._offset:  # it was truncated
                self._offset, self._in_long_line = 0, False
            return os.pread(descriptor, _BLOCK_SIZE, self._offset)
        finally:
            os.close(descriptor)


def append(path: Path, line: bytes) -> None:
    """Append a line in one write; a line break comes first, in case another writer left an incomplete line."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        os.write(descriptor, b"\n" + line)
    finally:
        os.close(descriptor)


def answer(path: Path, command_id: str, message: str, *, applied: bool, at: float) -> None:
    """Append the answer to a command to the file of answers, for the process that waits for it.

    Args:
        path: The file of answers.
        command_id: Id of the command.
        message: Message for the user.
        applied: False when it was rejected.
        at: Unix time, s.
    """
    record = {"id": command_id, "applied": applied, "answer": message, "at": at}
    append(path, json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n")


def find_answer(lines: LineTail, command_id: str) -> dict[str, Any] | None:
    """Return the answer to a command if the new lines contain it, else None."""
    for _, line in lines.take():
        if command_id.encode() in line:
            record: dict[str, Any] = json.loads(line)
            if record["id"] == command_id:
                return record
    return None
