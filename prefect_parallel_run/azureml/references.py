"""Resolves references of Azure's files: relative paths, URLs, and names that only the user can map to a location."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from pathlib import Path

from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.storage.paths import absolute_location, absolute_path

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_NAME = re.compile(r"azureml:[^/]")
_READABLE = {"http", "https", "abfs", "abfss", "az", "s3", "gs", "file", "memory"}


class References:
    """Resolves references with the locations that the user has provided.

    Args:
        places: Path, URL or value by reference; one that ends in ``/`` applies to all references that start with it. An input
            of a pipeline may be named as in its jobs, ``${{parent.inputs.NAME}}``, or as in the pipeline.
    """

    def __init__(self, places: Mapping[str, str] | None = None) -> None:
        self._given = dict(places or {})
        self._places = {_spaceless(text): (text, location) for text, location in self._given.items()}
        self.used: set[str] = set()

    def resolve(self, text: str, folder: Path, field: str, findings: MigrationFindings) -> str | None:
        """Return the absolute location of *text*, relative to *folder*; None, and an open field, if it cannot be resolved."""
        known = self.known(text)
        if known is not None:
            findings.changed(field, text, absolute_location(known), mapping_note(known))
            return absolute_location(known)
        if is_unresolved(text):
            findings.open(field, text, _why(text), text)
            return None
        if _SCHEME.match(text):
            return text
        return absolute_path(folder / text)

    def known(self, text: str) -> str | None:
        """Return the location or value that the user has provided for a reference."""
        for name in _names(text):
            if name in self._places:
                reference, location = self._places[name]
                self.used.add(reference)
                return location
        for prefix, location in self._given.items():
            if prefix.endswith("/") and text.startswith(prefix):
                self.used.add(prefix)
                return location.rstrip("/") + "/" + text[len(prefix) :]
        return None

    def unused(self) -> list[str]:
        """Return the provided references that do not occur in the file."""
        return [text for text in self._given if text not in self.used]


def _names(text: str) -> tuple[str, str]:
    """Return the names of a reference, the one in the file first.

    >>> _names("${{ parent.inputs.nodes }}")
    ('${{parent.inputs.nodes}}', '${{inputs.nodes}}')
    """
    name = _spaceless(text)
    return name, re.sub(r"\A\$\{\{parent\.inputs\.", "${{inputs.", name)


def _spaceless(text: str) -> str:
    """Return *text* without blanks at the ends of its expressions."""
    return re.sub(r"(?<=\$\{\{)\s+|\s+(?=\}\})", "", text)


def is_unresolved(text: str) -> bool:
    """True for a reference that only an Azure workspace, or an unsupported store, can resolve.

    >>> [is_unresolved(text) for text in ("azureml:iris:1", "azureml://datastores/x/paths/y", "./iris", "https://h/iris.csv")]
    [True, True, False, False]
    """
    scheme = _SCHEME.match(text)
    return bool(_NAME.match(text) or "${{" in text or (scheme and scheme[1].lower() not in _READABLE))


def mapping_note(location: str) -> str:
    """Return the reason for a mapped location, with a hint if it does not exist: it may be mistyped, or be created later."""
    path = absolute_location(location)
    exists = is_remote(path) or glob.has_magic(path) or Path(path).exists()
    return "as specified" + ("" if exists else f"; {location} does not exist here yet")


def _why(text: str) -> str:
    scheme = _SCHEME.match(text)
    if "${{" in text:
        return "no value in this file; map it to a location"
    if scheme and scheme[1].lower() in ("wasb", "wasbs", "adl"):
        return "this kind of store is not supported, abfss:// is; map it to another location"
    return "only your Azure workspace can resolve it; map it to a location"
