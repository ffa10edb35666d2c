"""What a file of Azure's refers to: paths beside it, URLs, and names in a workspace, which only a person can give a place."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from pathlib import Path

from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.datasets.base import absolute
from prefect_parallel_run.paths import absolute_path

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_NAME = re.compile(r"azureml:[^/]")
_READABLE = {"http", "https", "abfs", "abfss", "az", "s3", "gs", "file", "memory"}


class References:
    """Gives references the places that a person has said they have.

    Args:
        places: Path, URL or value by reference; one that ends in ``/`` stands for all references that begin with it. An input
            of a pipeline may be called as its jobs call it, ``${{parent.inputs.NAME}}``, or as the pipeline does.
    """

    def __init__(self, places: Mapping[str, str] | None = None) -> None:
        self._given = dict(places or {})
        self._places = {_spaceless(text): (text, place) for text, place in self._given.items()}
        self.used: set[str] = set()

    def place(self, text: str, folder: Path, field: str, findings: MigrationFindings) -> str | None:
        """Return where *text* is, absolute; relative paths count from *folder*. None, and an open field, where nobody knows."""
        known = self.known(text)
        if known is not None:
            findings.changed(field, text, absolute(known), you_said(known))
            return absolute(known)
        if needs_a_place(text):
            findings.open(field, text, _why(text), text)
            return None
        if _SCHEME.match(text):
            return text
        return absolute_path(folder / text)

    def known(self, text: str) -> str | None:
        """Return the place, or the value, that a person has given a reference."""
        for name in _names(text):
            if name in self._places:
                given, place = self._places[name]
                self.used.add(given)
                return place
        for prefix, place in self._given.items():
            if prefix.endswith("/") and text.startswith(prefix):
                self.used.add(prefix)
                return place.rstrip("/") + "/" + text[len(prefix) :]
        return None

    def unused(self) -> list[str]:
        """Return what was given a place, or a value, but stands nowhere."""
        return [text for text in self._given if text not in self.used]


def _names(text: str) -> tuple[str, str]:
    """Return the names of a reference, the one that stands in the file first.

    >>> _names("${{ parent.inputs.nodes }}")
    ('${{parent.inputs.nodes}}', '${{inputs.nodes}}')
    """
    name = _spaceless(text)
    return name, re.sub(r"\A\$\{\{parent\.inputs\.", "${{inputs.", name)


def _spaceless(text: str) -> str:
    """Return *text* with no blanks at the ends of its expressions."""
    return re.sub(r"(?<=\$\{\{)\s+|\s+(?=\}\})", "", text)


def needs_a_place(text: str) -> bool:
    """True for what only a workspace of Azure's, or a store that cannot be read here, could resolve.

    >>> [needs_a_place(text) for text in ("azureml:iris:1", "azureml://datastores/x/paths/y", "./iris", "https://h/iris.csv")]
    [True, True, False, False]
    """
    scheme = _SCHEME.match(text)
    return bool(_NAME.match(text) or "${{" in text or (scheme and scheme[1].lower() not in _READABLE))


def you_said(place: str) -> str:
    """Return why a reference has this place, with a hint where nothing is there: it may be mistyped, or come later."""
    here = absolute(place)
    is_there = is_remote(here) or glob.has_magic(here) or Path(here).exists()
    return "as you said" + ("" if is_there else f"; {place} does not exist here yet")


def _why(text: str) -> str:
    scheme = _SCHEME.match(text)
    if "${{" in text:
        return "nothing in this file gives it a value; give it a place"
    if scheme and scheme[1].lower() in ("wasb", "wasbs", "adl"):
        return "this kind of store cannot be read here, abfss:// can; give it another place"
    return "it is known in your Azure workspace only; give it a place"
