"""Resolves references and ``${{…}}`` expressions of Azure's files: paths, URLs, inputs, and names that only the user knows."""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.config.yaml_reader import Section
from prefect_parallel_run.storage.paths import absolute_location, absolute_path

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_NAME = re.compile(r"azureml:[^/]")
_READABLE = {"http", "https", "abfs", "abfss", "az", "s3", "gs", "file", "memory"}
EXPRESSION = re.compile(r"\$\{\{\s*([^{}]*?)\s*\}\}")
_OUTER = "parent.inputs"  #: prefix by which a job refers to the inputs of its pipeline
_LITERALS = {"string", "integer", "number", "boolean"}
DATA_TYPES = {"uri_file", "uri_folder", "mltable", "custom_model", "mlflow_model", "triton_model"}


class References:
    """The locations and values that the user has provided for references.

    Args:
        places: Path, URL or value by reference; one that ends in ``/`` applies to all references that start with it. An input
            of a pipeline may be named as in its jobs, ``${{parent.inputs.NAME}}``, or as in the pipeline.
    """

    def __init__(self, places: Mapping[str, str] | None = None) -> None:
        self._given = dict(places or {})
        self._places = {_spaceless(text): (text, location) for text, location in self._given.items()}
        self.used: set[str] = set()

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


@dataclass(slots=True, kw_only=True)
class Migration(MigrationFindings):
    """The conversion of a step or table: its findings, and the references that the user has mapped."""

    references: References = field(default_factory=References)

    def resolve(self, text: str, folder: Path, name: str) -> str | None:
        """Return the absolute location of *text*, relative to *folder*; None, and *name* an open field, if it is unknown."""
        known = self.references.known(text)
        if known is not None:
            self.changed(name, text, absolute_location(known), mapping_note(known))
            return absolute_location(known)
        if is_unresolved(text):
            self.open(name, text, _why(text), text)
            return None
        return text if _SCHEME.match(text) else absolute_path(folder / text)


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


class Data(NamedTuple):
    """A data input."""

    type: str  #: uri_file, uri_folder, mltable, …
    path: str  #: as written in the file
    mode: str | None
    folder: Path  #: base of a relative path


class Literal(NamedTuple):
    """An input with a string or number."""

    text: str


class Missing(NamedTuple):
    """An input for a string or number without a value."""

    reference: str  #: reference for which the user can provide the value


Input = Data | Literal | Missing | None  # None: optional and without a value


def expression(text: Any) -> str | None:
    """Return the content of a string that is a single expression, or None.

    >>> expression("${{ inputs.data }}"), expression("a ${{inputs.data}}")
    ('inputs.data', None)
    """
    match = EXPRESSION.fullmatch(text.strip()) if isinstance(text, str) else None
    return match[1] if match is not None else None


def bound_inputs(job: Section, pipeline: Section | None, references: References) -> dict[str, Input]:
    """Return the inputs of *job*, with values from its *pipeline* and *references* filled in.

    Raises:
        ValueError: An input is neither data nor a literal.
    """
    inputs = job.section("inputs")
    return {name: _with_value(_bound(inputs, name, pipeline, "inputs"), references) for name in inputs}


def _with_value(input_value: Input, references: References) -> Input:
    value = references.known(input_value.reference) if isinstance(input_value, Missing) else None
    return input_value if value is None else Literal(value)


class Values:
    """Resolves the expressions in a job's fields, from its resolved inputs, its pipeline, and values provided by the user."""

    def __init__(self, inputs: Mapping[str, Input], pipeline: Section | None, references: References) -> None:
        self._inputs, self._pipeline, self._references = inputs, pipeline, references
        self.missing: dict[str, str] = {}  #: references by input, for inputs that a field needs but that have no value

    def of(self, inside: str) -> Input:
        """Return the input that an expression refers to; None for anything else, or for an input without a value."""
        outer = _parent(f"${{{{{inside}}}}}", self._pipeline)
        if outer is not None:
            return _with_value(_bound(*outer), self._references)
        return self._inputs.get(inside.removeprefix("inputs.")) if inside.startswith("inputs.") else None

    def _is_left_out(self, inside: str) -> bool:
        """True for an optional input without a value."""
        is_input = inside.removeprefix("inputs.") in self._inputs or _parent(f"${{{{{inside}}}}}", self._pipeline) is not None
        return is_input and self.of(inside) is None

    def substitute(self, section: Section, unchanged: Collection[str] = ()) -> Section:
        """Return *section* with expressions replaced by literals, except in the fields *unchanged*.

        A field that needs a missing value is left out.
        """
        result = Section(section.file)
        for key, value in section.items():
            literal = value if key in unchanged else self._substitute(value)
            if not isinstance(literal, Missing):
                result.set_from(key, literal, section)
        return result

    def _substitute(self, value: Any) -> Any:
        if isinstance(value, Section):
            return self.substitute(value)
        if isinstance(value, list):
            return [self._substitute(item) for item in value]
        if not isinstance(value, str):
            return value
        for match in EXPRESSION.finditer(value):
            if isinstance(missing := self.of(match[1]), Missing):
                self.missing[match[1]] = missing.reference
                return missing
        if (inside := expression(value)) is not None and self._is_left_out(inside):
            return None
        return EXPRESSION.sub(self._text, value)

    def _text(self, match: re.Match[str]) -> str:
        value = self.of(match[1])
        known = None if value is not None else self._references.known(match[0])
        return value.text if isinstance(value, Literal) else known or match[0]


def _bound(inputs: Section, name: str, pipeline: Section | None = None, scope: str = _OUTER) -> Input:
    """Return one input of a job, or by default of a pipeline itself, whose inputs refer to nothing further."""
    spec = inputs[name]
    parent = _parent(spec if not isinstance(spec, Section) else spec.get("path"), pipeline)
    if parent is not None:
        input_value = _bound(*parent)
        if isinstance(spec, Section) and isinstance(input_value, Literal) and spec.get("type") in DATA_TYPES:
            input_value = Data(str(spec["type"]), input_value.text, None, parent[0].file.absolute().parent)
        if isinstance(spec, Section) and isinstance(input_value, Data):  # the job's own type and mode take precedence
            return input_value._replace(type=str(spec.get("type", input_value.type)), mode=spec.get("mode", input_value.mode))
        return input_value
    if isinstance(spec, Section):
        return _from_section(f"${{{{{scope}.{name}}}}}", spec)
    if isinstance(spec, str) and (EXPRESSION.fullmatch(spec) or spec.startswith(("azureml:", "azureml://"))):
        return Data("uri_folder", spec, None, inputs.file.absolute().parent)
    if spec is None or isinstance(spec, list):
        raise inputs.error(name, "a string, a number, or a mapping with a path")
    return Literal(str(spec))


def _from_section(reference: str, spec: Section) -> Input:
    """Return an input that is a mapping; *reference* identifies it if it has no value."""
    kind, mode, folder = str(spec.get("type", "uri_folder")), spec.get("mode"), spec.file.absolute().parent
    if spec.get("path") is not None:
        return Data(kind, str(spec["path"]), mode, folder)
    value = spec["value"] if spec.get("value") is not None else spec.get("default")
    if value is not None:
        return Data(kind, str(value), mode, folder) if kind in DATA_TYPES else Literal(str(value))
    if spec.get("optional") is True:
        return None
    return Missing(reference) if kind in _LITERALS else Data(kind, reference, mode, folder)


def _parent(text: Any, pipeline: Section | None) -> tuple[Section, str] | None:
    """Return the pipeline's inputs and the name that ``${{parent.inputs.NAME}}`` refers to, if any."""
    inside = expression(text)
    if pipeline is None or inside is None or not inside.startswith(f"{_OUTER}."):
        return None
    name = inside.removeprefix(f"{_OUTER}.")
    inputs = pipeline.section("inputs")
    return (inputs, name) if name in inputs else None
