"""What became of the fields of somebody else's file: each is taken over, changed, left out, or open. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any


class Outcome(str, Enum):
    """What became of a field."""

    TAKEN = "taken over"
    CHANGED = "changed"  #: taken over, but it does not mean quite the same here
    LEFT = "left out"  #: nothing here does that
    OPEN = "open"  #: has to be decided before anything runs: another input, or other rows, would be processed


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What became of one field."""

    field: str  #: where it stands, such as ``task.environment.image``
    outcome: Outcome
    given: str = ""  #: what it says, as text; empty for secrets
    here: str = ""  #: what stands for it here
    why: str = ""  #: what is different, and what to do about it
    reference: str = ""  #: what can be given a place, a value, or another one: REFERENCE of --map, a key of references=
    wanted: str = "PLACE"  #: what the reference is to be given: PLACE or VALUE

    def __str__(self) -> str:
        given = f" {self.given}" if self.given else ""
        here = f" -> {self.here}" if self.here else ""
        return f"{self.field}{given}: {self.outcome.value}{here}" + (f"; {self.why}" if self.why else "")

    def for_command(self) -> str:
        """Return it as a text, with the option of the command line that helps."""
        return f"{self}: --map {shlex.quote(f'{self.reference}={self.wanted}')}" if self.reference else str(self)

    def for_python(self) -> str:
        """Return it as a text, with the argument of ``load`` that helps."""
        return f"{self}: references={{{self.reference!r}: {self.wanted}}}" if self.reference else str(self)


@dataclass(slots=True)
class MigrationFindings:
    """Collects differences in the order in which the fields are looked at."""

    found: list[Difference] = field(default_factory=list)

    def taken(self, name: str, given: Any, here: str) -> None:
        """Note that a field means the same here."""
        self._add(name, Outcome.TAKEN, given, here, "")

    def changed(self, name: str, given: Any, here: str, why: str, reference: str = "") -> None:
        """Note that a field is taken over but means something else; *reference* could be given another place."""
        self._add(name, Outcome.CHANGED, given, here, why, reference)

    def left(self, name: str, given: Any, why: str) -> None:
        """Note that a field has no place here."""
        self._add(name, Outcome.LEFT, given, "", why)

    def open(self, name: str, given: Any, why: str, reference: str = "") -> None:
        """Note that a field has to be decided by a person, who may do so by giving *reference* a place."""
        self._add(name, Outcome.OPEN, given, "", why, reference)

    def open_value(self, name: str, reference: str) -> None:
        """Note that an input which is a text or a number has no value; a person may give *reference* one."""
        why = "nothing in this file gives it a value; give it one"
        self.found.append(Difference(field=name, outcome=Outcome.OPEN, why=why, reference=reference, wanted="VALUE"))

    def add(self, others: Iterable[Difference], prefix: str = "") -> None:
        """Note what was found elsewhere, its fields below *prefix*."""
        self.found += [replace(other, field=f"{prefix}{other.field}") for other in others]

    def _add(self, name: str, outcome: Outcome, given: Any, here: str, why: str, reference: str = "") -> None:
        given = as_text(given)
        self.found.append(Difference(field=name, outcome=outcome, given=given, here=here, why=why, reference=reference))


_LONGEST = 120  #: characters of what a field says


def as_text(value: Any) -> str:
    """Return what a field says, as a file would, not endless.

    >>> as_text(True), as_text(None), as_text("x" * 200)[-3:]
    ('true', '', 'xx…')
    """
    if value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
