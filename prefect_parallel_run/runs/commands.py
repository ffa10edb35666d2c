"""What a person may order while a run goes on: the values, how they are written as a line, and what makes one wrong. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect_parallel_run.config.quoting import is_int, is_number, shown

LONGEST = 4_096  #: bytes of a line
LIMITS = ("error_threshold", "allowed_failed_count", "allowed_failed_percent")
PROCESSES = "process_count_per_node"
_MOST = 1 << 53  #: what JSON can hold exactly
_MOST_PROCESSES = 1_024  #: per node: a slip of the finger must not take a machine down
_ID = re.compile(r"[0-9a-f]{32}")
_LONGEST_NAME = 300  #: characters

_ACCEPTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "error_threshold": ("a whole number, -1 (forgives all) or more", lambda value: is_int(value) and -1 <= value <= _MOST),
    "allowed_failed_count": ("a whole number, -1 (forgives all) or more", lambda value: is_int(value) and -1 <= value <= _MOST),
    "allowed_failed_percent": ("a number from 0 to 100 (forgives all)", lambda value: is_number(value) and 0 <= value <= 100),
    PROCESSES: (f"a whole number from 1 to {_MOST_PROCESSES}", lambda value: is_int(value) and 1 <= value <= _MOST_PROCESSES),
}
FIELDS: dict[str, tuple[str, ...]] = {
    "pause": (),
    "continue": (),
    "limits": LIMITS,
    "processes": (PROCESSES,),
}  #: by kind of order


class OrderRefusedError(ValueError):
    """An order is not one that can be followed; *order* is its id, where it has one."""

    def __init__(self, reason: str, order: str | None = None) -> None:
        super().__init__(reason)
        self.order = order


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a person orders."""

    id: str  #: 32 hexadecimal digits
    at: float  #: Unix time, s
    by: str  #: user@host/process
    driver: str  #: names the driving that it is for: another one, later, must not follow it
    kind: str  #: pause, continue, limits, processes
    values: Mapping[str, float] = field(default_factory=dict)  #: of limits and processes, by configuration field

    def __post_init__(self) -> None:
        check(self.kind, self.values)

    def __str__(self) -> str:
        return _words(self.kind, self.values)

    @property
    def what(self) -> str:
        """Return kind and values as JSON."""
        return json.dumps({self.kind: dict(self.values)})

    def to_line(self) -> bytes:
        """Return the order as one line."""
        facts = {"id": self.id, "at": self.at, "by": self.by, "driver": self.driver, "order": {self.kind: dict(self.values)}}
        return json.dumps(facts, separators=(",", ":")).encode("ascii") + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Order:
        """Return what ``to_line`` was called on.

        Raises:
            OrderRefusedError: The line is anything else.
        """
        if len(line) > LONGEST:
            raise OrderRefusedError(f"a line of over {LONGEST} bytes is no order")
        try:
            facts = json.loads(line)
        except (ValueError, RecursionError):
            raise OrderRefusedError(f"{shown(line)} is no JSON") from None
        if not isinstance(facts, dict) or not (isinstance(facts.get("id"), str) and _ID.fullmatch(facts["id"])):
            raise OrderRefusedError(f"{shown(line)} is no object with an id")
        try:
            return cls._from(facts)
        except ValueError as error:
            raise OrderRefusedError(str(error), facts["id"]) from None

    @classmethod
    def _from(cls, facts: dict[str, Any]) -> Order:
        if facts.keys() != {"id", "at", "by", "driver", "order"}:
            raise ValueError(f"it has {shown(sorted(facts))}; accepted: id, at, by, driver, order")
        for name in ("by", "driver"):
            value = facts[name]
            if not (isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_NAME):
                raise ValueError(f"{name} is {shown(value)}; accepted: a printable text")
        if not is_number(facts["at"]):
            raise ValueError(f"at is {shown(facts['at'])}; accepted: seconds")
        order = facts["order"]
        if not (isinstance(order, dict) and len(order) == 1 and all(isinstance(values, dict) for values in order.values())):
            raise ValueError(f"order is {shown(order)}; accepted: one of {', '.join(FIELDS)} with its values")
        ((kind, values),) = order.items()
        return cls(id=facts["id"], at=float(facts["at"]), by=facts["by"], driver=facts["driver"], kind=kind, values=values)


def in_words(what: str) -> str:
    """Return what was ordered as a ledger keeps it, in words; of what is no order, how it begins.

    >>> in_words('{"limits": {"error_threshold": 10}}'), in_words('{"pause": {}}'), in_words("rubbish")
    ('limits error_threshold=10', 'pause', 'rubbish')
    """
    try:
        ((kind, values),) = json.loads(what).items()
        return _words(kind, values)
    except (ValueError, AttributeError, TypeError):  # no JSON, or JSON of another shape
        return what


def _words(kind: str, values: Mapping[str, float]) -> str:
    return " ".join([kind, *(f"{name}={value:g}" for name, value in values.items())])


def check(kind: str, values: Mapping[str, Any]) -> None:
    """Raise ValueError for what is no order, with what is accepted.

    >>> check("limits", {"error_threshold": -1})
    >>> check("processes", {"process_count_per_node": 0})
    Traceback (most recent call last):
    ...
    ValueError: process_count_per_node is 0; accepted: a whole number from 1 to 1024
    """
    if kind not in FIELDS:
        raise ValueError(f"order is {shown(kind)}; accepted: {', '.join(FIELDS)}")
    fields = FIELDS[kind]
    if not values.keys() <= set(fields) or bool(values) != bool(fields):
        words = f"one or more of {', '.join(fields)}" if fields else "nothing"
        raise ValueError(f"{kind} has {', '.join(map(shown, values)) or 'nothing'}; accepted: {words}")
    for name, value in values.items():
        words, is_right = _ACCEPTED[name]
        if not is_right(value):
            raise ValueError(f"{name} is {shown(value)}; accepted: {words}")
