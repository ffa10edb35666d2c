"""What a parallel job says with ``${{…}}``: its inputs, its outputs, and what a pipeline job gives them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run.azure.documents import Section

EXPRESSION = re.compile(r"\$\{\{\s*([^{}]*?)\s*\}\}")
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


Input = Data | Literal | None  # None: optional, and not given


def expression(text: Any) -> str | None:
    """Return what stands in a text that is one expression.

    >>> expression("${{ inputs.data }}"), expression("a ${{inputs.data}}")
    ('inputs.data', None)
    """
    found = EXPRESSION.fullmatch(text.strip()) if isinstance(text, str) else None
    return found[1] if found is not None else None


def bound_inputs(job: Section, pipeline: Section | None) -> dict[str, Input]:
    """Return the inputs of *job*, with those of the *pipeline* it is a part of filled in.

    Raises:
        ValueError: An input is neither data nor a literal, or has no value though it needs one.
    """
    inputs = job.section("inputs")
    return {name: _bound(inputs, name, pipeline) for name in inputs}


def _bound(inputs: Section, name: str, pipeline: Section | None, is_given: bool = True) -> Input:
    """Return one input; *is_given* is False inside a pipeline's own inputs, which refer to nothing further."""
    spec = inputs[name]
    parent = _parent(spec if not isinstance(spec, Section) else spec.get("path"), pipeline) if is_given else None
    if parent is not None:
        found = _bound(*parent, pipeline, is_given=False)
        if isinstance(spec, Section) and isinstance(found, Data):  # what the job says itself of type and mode counts more
            return found._replace(type=str(spec.get("type", found.type)), mode=spec.get("mode", found.mode))
        return found
    if isinstance(spec, Section):
        return _from_section(inputs, name, spec)
    if isinstance(spec, str) and (EXPRESSION.fullmatch(spec) or spec.startswith(("azureml:", "azureml://"))):
        return Data("uri_folder", spec, None, inputs.file.absolute().parent)
    if spec is None or isinstance(spec, list):
        raise inputs.wrong(name, "a text, a number, or a mapping with a path")
    return Literal(str(spec))


def _from_section(inputs: Section, name: str, spec: Section) -> Input:
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
        raise ValueError(f"{inputs.where(name)}: the input {name} has no value; a job or a default has to give it one")
    return Data(kind, f"${{{{inputs.{name}}}}}", spec.get("mode"), spec.file.absolute().parent)


def _parent(text: Any, pipeline: Section | None) -> tuple[Section, str] | None:
    """Return where ``${{parent.inputs.NAME}}`` leads, if it leads anywhere."""
    inside = expression(text)
    if pipeline is None or inside is None or not inside.startswith("parent.inputs."):
        return None
    name = inside.removeprefix("parent.inputs.")
    inputs = pipeline.section("inputs")
    return (inputs, name) if name in inputs else None


def resolve_literals(value: Any, inputs: Mapping[str, Input]) -> Any:
    """Return the value of a field, with an expression that is a literal input replaced by its text."""
    inside = expression(value)
    found = inputs.get(inside.removeprefix("inputs.")) if inside is not None else None
    return found.text if isinstance(found, Literal) else value


def merged(component: Section, job: Section) -> Section:
    """Return a component with what the job that uses it says on top; inputs and settings are merged one by one."""
    result = Section(component.file)
    for source in (component, job):
        for key, value in source.items():
            result[key] = _together(key, result.get(key), value)
            result.lines[key] = source.lines.get(key, 1)
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
        result.update(source)
        result.lines |= source.lines
    return result


def _inputs_merged(below: Section, above: Section) -> Section:
    """Return inputs or outputs of a component with those of a job; a plain value is that of a declared one."""
    result = _shallow(below, Section(below.file))
    result.file = above.file
    for name, value in above.items():
        declared = below.get(name)
        result.lines[name] = above.lines.get(name, 1)
        if not isinstance(declared, Section) or expression(value) is not None:
            result[name] = value
        elif isinstance(value, Section):
            result[name] = _shallow(declared, value)
        elif value is not None:
            given = Section(above.file)
            given["path" if declared.get("type") in _DATA else "value"] = value
            result[name] = _shallow(declared, given)
    return result
