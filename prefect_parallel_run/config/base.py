"""The base of the configuration's models: their schema as a form for people to fill in, and their errors. Pure.

Prefect's UI draws a form from the schema, and Prefect's server validates the submitted values with it. An optional field
would become two tabs, one labelled "None"; here it is one field that may be left empty. If several types make tabs necessary,
None is the last tab, and the form opens with the first.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

_NONE = "Default"  #: label of the tab for None
_NAME = re.compile(r"\w+")
Model = TypeVar("Model", bound=BaseModel)
FieldPath = tuple[int | str, ...]


class FormModel(BaseModel):
    """A model that people fill in as a form, with each field's docstring as its help text."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema, with optional fields instead of tabs for None."""
        schema = handler(core_schema)
        for field in handler.resolve_ref_schema(schema).get("properties", {}).values():
            make_optional(field)
            if "description" in field:
                field["description"] = " ".join(field["description"].split())
        return schema


def make_optional(field: dict[str, Any]) -> None:
    """Change the schema of a field that may be None: a single type without tabs, or else None as the last tab.

    A form does not send fields that are left empty. An explicit None is still accepted: by Prefect's server if one type
    remains (the field is not required and has no default), and as a tab otherwise.
    >>> field = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "default": None, "title": "Nodes"}
    >>> make_optional(field)
    >>> field
    {'title': 'Nodes', 'type': 'integer', 'minimum': 1}
    """
    if field.get("default", 0) in (None, {}, []):
        del field["default"]  # the form would send it, and an empty mapping has no editor
    choices = field.get("anyOf", [])
    types = [choice for choice in choices if choice.get("type") != "null"]
    if len(types) == len(choices):
        return
    if len(types) == 1 and "type" in types[0] and "enum" not in types[0]:
        del field["anyOf"]
        for key, value in types[0].items():
            field.setdefault(key, value)
    else:
        field["anyOf"] = [*types, {"type": "null", "title": _NONE}]


def construct(kind: type[Model], values: Mapping[str, Any], describe: Callable[[FieldPath, str], str]) -> Model:
    """Return the model of *values*.

    Args:
        kind: Class of the model.
        values: Values by field.
        describe: Words one error, from the path of the field (empty for an error about several fields) and the message.

    Raises:
        ValueError: Some values are invalid; the error contains no values except those that a validator of ours shows.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        lines = []
        for part in error.errors(include_url=False, include_input=False, include_context=False):
            is_missing = part["type"] == "missing"
            message = f"{part['loc'][-1]} is missing" if is_missing else part["msg"].removeprefix("Value error, ")
            lines.append(describe(part["loc"], message))
        raise ValueError("\n".join(lines)) from None


def build(kind: type[Model], values: Mapping[str, Any], locations: Mapping[str, str], root: str) -> Model:
    """Return the model of *values*.

    Args:
        kind: Class of the model.
        values: Values by field.
        locations: Source location of each value, for errors.
        root: Location for a missing field.

    Raises:
        ValueError: A value is invalid, or a field is unknown or missing; the error names the location and the field.
    """
    known = kind.model_fields
    unknown = [f"{locations[key]}: unknown field {key!r}{similar(key, known)}" for key in values if key not in known]
    if unknown:
        raise ValueError("\n".join(unknown))

    def describe(path: FieldPath, message: str) -> str:
        names = _NAME.findall(message)
        # An error about several fields has no field of its own: it is located at the first one that it names.
        field = str(path[0]) if path else next((name for name in names if name in locations), "")
        is_named = not path or names[:1] == [field]
        return f"{locations.get(field, root)}: {message if is_named else f'{field}: {message}'}"

    return construct(kind, values, describe)


def similar(name: str, known: Iterable[str]) -> str:
    """Return a hint at the most similar name, or an empty string.

    >>> similar("node_cuont", ["node_count", "min_nodes"])
    '; did you mean node_count?'
    """
    close = difflib.get_close_matches(name, sorted(known), 1)
    return f"; did you mean {close[0]}?" if close else ""
