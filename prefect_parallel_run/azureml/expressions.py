"""Resolves the ``${{…}}`` expressions of a parallel job: its inputs, its outputs, and the values from its pipeline. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run.azureml.references import References
from prefect_parallel_run.config.yaml_reader import Section

EXPRESSION = re.compile(r"\$\{\{\s*([^{}]*?)\s*\}\}")
_OUTER = "parent.inputs"  #: prefix by which a job refers to the inputs of its pipeline
_LITERALS = {"string", "integer", "number", "boolean"}
_DATA = {"uri_file", "uri_folder", "mltable", "custom_model", "mlflow_model", "triton_model"}


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
    return {name: _with_value(_bound(inputs, name, pipeline), references) for name in inputs}


def _with_value(input_value: Input, references: References) -> Input:
    """Return an input, with the value that the user has provided for it."""
    value = references.known(input_value.reference) if isinstance(input_value, Missing) else None
    return input_value if value is None else Literal(value)


class Values:
    """Resolves the expressions in a job's fields.

    Args:
        inputs: The job's resolved inputs.
        pipeline: The job's pipeline, if any.
        references: Values provided by the user.
    """

    def __init__(self, inputs: Mapping[str, Input], pipeline: Section | None, references: References) -> None:
        self._inputs, self._pipeline, self._references = inputs, pipeline, references
        self.missing: dict[str, str] = {}  #: references by input, for inputs that a field needs but that have no value

    def of(self, inside: str) -> Input:
        """Return the input that an expression refers to; None for anything else, or for an input without a value."""
        outer = _parent(f"${{{{{inside}}}}}", self._pipeline)
        if outer is not None:
            return _with_value(_bound(*outer, None, _OUTER), self._references)
        return self._inputs.get(inside.removeprefix("inputs.")) if inside.startswith("inputs.") else None

    def _is_left_out(self, inside: str) -> bool:
        """True for an optional input without a value."""
        is_input = inside.removeprefix("inputs.") in self._inputs or _parent(f"${{{{{inside}}}}}", self._pipeline) is not None
        return is_input and self.of(inside) is None

    def substitute(self, section: Section, unchanged: Collection[str] = ()) -> Section:
        """Return *section* with expressions replaced by literals; a field that needs a missing value is left out.

        *unchanged* names fields that are copied unchanged.
        """
        result = Section(section.file)
        for key, value in section.items():
            result_value = value if key in unchanged else self._substitute(value)
            if not isinstance(result_value, Missing):
                result.set_from(key, result_value, section)
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


def _bound(inputs: Section, name: str, pipeline: Section | None, scope: str = "inputs") -> Input:
    """Return one input; the inputs of the pipeline itself use another *scope*, and refer to nothing further."""
    spec = inputs[name]
    parent = _parent(spec if not isinstance(spec, Section) else spec.get("path"), pipeline)
    if parent is not None:
        input_value = _bound(*parent, None, _OUTER)
        if isinstance(spec, Section) and isinstance(input_value, Literal) and spec.get("type") in _DATA:
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
    """Return the pipeline's inputs and the name that ``${{parent.inputs.NAME}}`` refers to, if any."""
    inside = expression(text)
    if pipeline is None or inside is None or not inside.startswith(f"{_OUTER}."):
        return None
    name = inside.removeprefix(f"{_OUTER}.")
    inputs = pipeline.section("inputs")
    return (inputs, name) if name in inputs else None


def merge_component(component: Section, job: Section) -> Section:
    """Return a component overridden by the job that uses it; inputs and settings are merged one by one."""
    result = Section(component.file)
    for source in (component, job):
        for key, value in source.items():
            result.set_from(key, _merge(key, result.get(key), value), source)
    return result


def _merge(key: str, base: Any, override: Any) -> Any:
    if not (isinstance(base, Section) and isinstance(override, Section)):
        return override
    if key in ("inputs", "outputs"):
        return _merge_inputs(base, override)
    return _merge_sections(base, override) if key in ("resources", "retry_settings", "environment_variables") else override


def _merge_sections(base: Section, override: Section) -> Section:
    result = Section(override.file)
    for source in (base, override):
        for key, value in source.items():
            result.set_from(key, value, source)
    return result


def _merge_inputs(base: Section, override: Section) -> Section:
    """Return inputs or outputs of a component merged with those of a job; a plain value fills in a declared input."""
    result = _merge_sections(base, Section(base.file))
    result.file = override.file
    for name, value in override.items():
        declared = base.get(name)
        if not isinstance(declared, Section) or expression(value) is not None:
            result.set_from(name, value, override)
        elif isinstance(value, Section):
            result.set_from(name, _merge_sections(declared, value), override)
        elif value is not None:
            filled_in = Section(override.file)
            filled_in["path" if declared.get("type") in _DATA else "value"] = value
            result.set_from(name, _merge_sections(declared, filled_in), override)
    return result
