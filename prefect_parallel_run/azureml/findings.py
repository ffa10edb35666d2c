"""Findings of a migration: each field of an Azure file is taken over, changed, left out, or open. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any


class Outcome(str, Enum):
    """Result for a field."""

    TAKEN = "taken over"
    CHANGED = "changed"  #: taken over with a slightly different meaning
    LEFT = "left out"  #: not supported here
    OPEN = "open"  #: requires a decision before the step can run: it would process other inputs or rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The result for one field."""

    field: str  #: its path, such as ``task.environment.image``
    outcome: Outcome
    given: str = ""  #: its value as text; empty for secrets
    here: str = ""  #: its equivalent here
    why: str = ""  #: the difference, and what to do about it
    reference: str = ""  #: the mappable reference: REFERENCE of --map, a key of references=
    wanted: str = "PLACE"  #: kind of the mapped value: PLACE or VALUE

    def __str__(self) -> str:
        given = f" {self.given}" if self.given else ""
        here = f" -> {self.here}" if self.here else ""
        return f"{self.field}{given}: {self.outcome.value}{here}" + (f"; {self.why}" if self.why else "")

    def for_command(self) -> str:
        """Return it as text, with the --map option that helps."""
        return f"{self}: --map {shlex.quote(f'{self.reference}={self.wanted}')}" if self.reference else str(self)

    def for_python(self) -> str:
        """Return it as text, with the argument of ``load`` that helps."""
        return f"{self}: references={{{self.reference!r}: {self.wanted}}}" if self.reference else str(self)


@dataclass(slots=True)
class MigrationFindings:
    """Collects differences in the order of the fields."""

    differences: list[Difference] = field(default_factory=list)

    def taken(self, name: str, given: Any, here: str) -> None:
        """Record a field with the same meaning here."""
        self._add(name, Outcome.TAKEN, given, here, "")

    def changed(self, name: str, given: Any, here: str, why: str, reference: str = "") -> None:
        """Record a field with a different meaning here; *reference* can be mapped to change that."""
        self._add(name, Outcome.CHANGED, given, here, why, reference)

    def left_out(self, name: str, given: Any, why: str) -> None:
        """Record a field without an equivalent here."""
        self._add(name, Outcome.LEFT, given, "", why)

    def open(self, name: str, given: Any, why: str, reference: str = "") -> None:
        """Record a field that requires a decision, for example by mapping *reference*."""
        self._add(name, Outcome.OPEN, given, "", why, reference)

    def open_value(self, name: str, reference: str) -> None:
        """Record an input for a string or number that has no value; the user can map *reference* to one."""
        why = "no value in this file; provide one"
        self.differences.append(Difference(field=name, outcome=Outcome.OPEN, why=why, reference=reference, wanted="VALUE"))

    def add(self, others: Iterable[Difference], prefix: str = "") -> None:
        """Add differences found elsewhere, with *prefix* before their fields."""
        self.differences += [replace(other, field=f"{prefix}{other.field}") for other in others]

    def _add(self, name: str, outcome: Outcome, given: Any, here: str, why: str, reference: str = "") -> None:
        given = as_text(given)
        self.differences.append(Difference(field=name, outcome=outcome, given=given, here=here, why=why, reference=reference))


_MAX_CHARACTERS = 120  #: in the displayed value of a field


def as_text(value: Any) -> str:
    """Return a field's value as the file would show it, truncated.

    >>> as_text(True), as_text(None), as_text("x" * 200)[-3:]
    ('true', '', 'xx…')
    """
    if value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}…"
