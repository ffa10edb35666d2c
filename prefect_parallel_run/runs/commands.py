"""Commands that users send to a running step: their values, their form as a line, and their validation. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect_parallel_run._units import is_int, is_number, shown

LONGEST = 4_096  #: bytes per line
LIMITS = ("error_threshold", "allowed_failed_count", "allowed_failed_percent")
PROCESSES = "process_count_per_node"
_MOST = 1 << 53  #: the greatest integer that JSON holds exactly
_MOST_PROCESSES = 1_024  #: per node: a typing error must not take a machine down
_ID = re.compile(r"[0-9a-f]{32}")
_LONGEST_NAME = 300  #: characters

_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "error_threshold": ("an integer, -1 (no limit) or greater", lambda value: is_int(value) and -1 <= value <= _MOST),
    "allowed_failed_count": ("an integer, -1 (no limit) or greater", lambda value: is_int(value) and -1 <= value <= _MOST),
    "allowed_failed_percent": ("a number from 0 to 100 (no limit)", lambda value: is_number(value) and 0 <= value <= 100),
    PROCESSES: (f"an integer from 1 to {_MOST_PROCESSES}", lambda value: is_int(value) and 1 <= value <= _MOST_PROCESSES),
}
FIELDS: dict[str, tuple[str, ...]] = {
    "pause": (),
    "continue": (),
    "limits": LIMITS,
    "processes": (PROCESSES,),
}  #: by kind of command


class CommandRejectedError(ValueError):
    """A command is invalid; *order* is its id, if it has one."""

    def __init__(self, reason: str, order: str | None = None) -> None:
        super().__init__(reason)
        self.order = order


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A command that a user sends to a running step."""

    id: str  #: 32 hexadecimal digits
    at: float  #: Unix time, s
    by: str  #: user@host/process
    driver: str  #: id of the execution that it is for: a later execution must ignore it
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
        record = {"id": self.id, "at": self.at, "by": self.by, "driver": self.driver, "order": {self.kind: dict(self.values)}}
        return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Order:
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
    def _from_record(cls, record: dict[str, Any]) -> Order:
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
        return cls(id=record["id"], at=float(record["at"]), by=record["by"], driver=record["driver"], kind=kind, values=values)


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


def check(kind: str, values: Mapping[str, Any]) -> None:
    """Raise ValueError when a command is invalid.

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
        expected = f"one or more of {', '.join(fields)}" if fields else "no values"
        raise ValueError(f"{kind}: expected {expected}, got {', '.join(map(shown, values)) or 'nothing'}")
    for name, value in values.items():
        expected, is_valid = _EXPECTED[name]
        if not is_valid(value):
            raise ValueError(f"{name}: expected {expected}, got {shown(value)}")
