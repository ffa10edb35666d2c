"""What a parallel job says with ``${{…}}``: its inputs, its outputs, and what a pipeline job gives them. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run.azureml.documents import Section
from prefect_parallel_run.azureml.references import References

EXPRESSION = re.compile(r"\$\{\{\s*([^{}]*?)\s*\}\}")
_OUTER = "parent.inputs"  #: what a job calls the inputs of the pipeline that it is a part of
_LITERALS = {"string", "integer", "number", "boolean"}
_DATA = {"uri_file", "uri_folder", "mltable", "custom_model", "mlflow_model", "triton_model"}


class Data(NamedTuple):
    """An input that is data."""

    type: str  #: uri_file, uri_folder, mltable, …
    path: str  #: as it is written
    mode: str | None
    folder: Path  #: that a relative path counts from


class Literal(NamedTuple):
    """An input that is a text or a number."""

    text: str


class Missing(NamedTuple):
    """An input that is a text or a number, and that nothing gives a value."""

    reference: str  #: that a person can give one


Input = Data | Literal | Missing | None  # None: optional, and not given


def expression(text: Any) -> str | None:
    """Return what stands in a text that is one expression.

    >>> expression("${{ inputs.data }}"), expression("a ${{inputs.data}}")
    ('inputs.data', None)
    """
    found = EXPRESSION.fullmatch(text.strip()) if isinstance(text, str) else None
    return found[1] if found is not None else None


def bound_inputs(job: Section, pipeline: Section | None, references: References) -> dict[str, Input]:
    """Return the inputs of *job*, with those of the *pipeline* it is a part of, and values of *references*, filled in.

    Raises:
        ValueError: An input is neither data nor a literal.
    """
    inputs = job.section("inputs")
    return {name: _valued(_bound(inputs, name, pipeline), references) for name in inputs}


def _valued(found: Input, references: References) -> Input:
    """Return an input, with the value that a person has given it."""
    value = references.known(found.reference) if isinstance(found, Missing) else None
    return found if value is None else Literal(value)


class Values:
    """The values that expressions stand for in the fields of a job.

    Args:
        inputs: Of the job, bound.
        pipeline: That it is a part of.
        references: Values that a person has given.
    """

    def __init__(self, inputs: Mapping[str, Input], pipeline: Section | None, references: References) -> None:
        self._inputs, self._pipeline, self._references = inputs, pipeline, references
        self.missing: dict[str, str] = {}  #: reference by the input that has no value, though a field needs it

    def of(self, inside: str) -> Input:
        """Return what an expression stands for, by what stands in it; None where that is no input, or none that is given."""
        outer = _parent(f"${{{{{inside}}}}}", self._pipeline)
        if outer is not None:
            return _valued(_bound(*outer, None, _OUTER), self._references)
        return self._inputs.get(inside.removeprefix("inputs.")) if inside.startswith("inputs.") else None

    def _is_left_out(self, inside: str) -> bool:
        """True for an optional input that is not given."""
        is_input = inside.removeprefix("inputs.") in self._inputs or _parent(f"${{{{{inside}}}}}", self._pipeline) is not None
        return is_input and self.of(inside) is None

    def filled(self, section: Section, but: Collection[str] = ()) -> Section:
        """Return *section* with literals in the place of expressions; a field that needs one without a value is left out.

        *but* names fields that are left as they are.
        """
        result = Section(section.file)
        for key, value in section.items():
            found = value if key in but else self._filled(value)
            if not isinstance(found, Missing):
                result.take(key, found, section)
        return result

    def _filled(self, value: Any) -> Any:
        if isinstance(value, Section):
            return self.filled(value)
        if isinstance(value, list):
            return [self._filled(one) for one in value]
        if not isinstance(value, str):
            return value
        for found in EXPRESSION.finditer(value):
            if isinstance(missing := self.of(found[1]), Missing):
                self.missing[found[1]] = missing.reference
                return missing
        if (inside := expression(value)) is not None and self._is_left_out(inside):
            return None
        return EXPRESSION.sub(self._text, value)

    def _text(self, found: re.Match[str]) -> str:
        value = self.of(found[1])
        known = None if value is not None else self._references.known(found[0])
        return value.text if isinstance(value, Literal) else known or found[0]


def _bound(inputs: Section, name: str, pipeline: Section | None, scope: str = "inputs") -> Input:
    """Return one input; those of a pipeline itself have another *scope*, and refer to nothing further."""
    spec = inputs[name]
    parent = _parent(spec if not isinstance(spec, Section) else spec.get("path"), pipeline)
    if parent is not None:
        found = _bound(*parent, None, _OUTER)
        if isinstance(spec, Section) and isinstance(found, Literal) and spec.get("type") in _DATA:
            found = Data(str(spec["type"]), found.text, None, parent[0].file.absolute().parent)
        if isinstance(spec, Section) and isinstance(found, Data):  # what the job says itself of type and mode counts more
            return found._replace(type=str(spec.get("type", found.type)), mode=spec.get("mode", found.mode))
        return found
    if isinstance(spec, Section):
        return _from_section(f"${{{{{scope}.{name}}}}}", spec)
    if isinstance(spec, str) and (EXPRESSION.fullmatch(spec) or spec.startswith(("azureml:", "azureml://"))):
        return Data("uri_folder", spec, None, inputs.file.absolute().parent)
    if spec is None or isinstance(spec, list):
        raise inputs.wrong(name, "a text, a number, or a mapping with a path")
    return Literal(str(spec))


def _from_section(reference: str, spec: Section) -> Input:
    """Return an input that is a mapping; *reference* is what it is called where it has no value."""
    kind = str(spec.get("type", "uri_folder"))
    if spec.get("path") is not None:
        return Data(kind, str(spec["path"]), spec.get("mode"), spec.file.absolute().parent)
    for key in ("value", "default"):
        if spec.get(key) is not None:
            text = str(spec[key])
            return Data(kind, text, spec.get("mode"), spec.file.absolute().parent) if kind in _DATA else Literal(text)
    if spec.get("optional") is True:
        return None
    if kind in _LITERALS:
        return Missing(reference)
    return Data(kind, reference, spec.get("mode"), spec.file.absolute().parent)


def _parent(text: Any, pipeline: Section | None) -> tuple[Section, str] | None:
    """Return where ``${{parent.inputs.NAME}}`` leads, if it leads anywhere."""
    inside = expression(text)
    if pipeline is None or inside is None or not inside.startswith(f"{_OUTER}."):
        return None
    name = inside.removeprefix(f"{_OUTER}.")
    inputs = pipeline.section("inputs")
    return (inputs, name) if name in inputs else None


def merged(component: Section, job: Section) -> Section:
    """Return a component with what the job that uses it says on top; inputs and settings are merged one by one."""
    result = Section(component.file)
    for source in (component, job):
        for key, value in source.items():
            result.take(key, _together(key, result.get(key), value), source)
    return result


def _together(key: str, below: Any, above: Any) -> Any:
    if not (isinstance(below, Section) and isinstance(above, Section)):
        return above
    if key in ("inputs", "outputs"):
        return _inputs_merged(below, above)
    return _shallow(below, above) if key in ("resources", "retry_settings", "environment_variables") else above


def _shallow(below: Section, above: Section) -> Section:
    result = Section(above.file)
    for source in (below, above):
        for key, value in source.items():
            result.take(key, value, source)
    return result


def _inputs_merged(below: Section, above: Section) -> Section:
    """Return inputs or outputs of a component with those of a job; a plain value is that of a declared one."""
    result = _shallow(below, Section(below.file))
    result.file = above.file
    for name, value in above.items():
        declared = below.get(name)
        if not isinstance(declared, Section) or expression(value) is not None:
            result.take(name, value, above)
        elif isinstance(value, Section):
            result.take(name, _shallow(declared, value), above)
        elif value is not None:
            given = Section(above.file)
            given["path" if declared.get("type") in _DATA else "value"] = value
            result.take(name, _shallow(declared, given), above)
    return result
