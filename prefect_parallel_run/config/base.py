"""The JSON schema of a model as a form for people to fill in. Pure.

Prefect's UI draws a form from the schema, and Prefect's server validates the submitted values with it. An optional field
would become two tabs, one labelled "None"; here it is one field that may be left empty. If several types make tabs necessary,
None is the last tab, and the form opens with the first.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

_NONE = "Default"  #: label of the tab for None


class FormModel(BaseModel):
    """A model that people fill in as a form; its schema does not affect validation in Python."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema, with optional fields instead of tabs for None."""
        schema = handler(core_schema)
        for field in handler.resolve_ref_schema(schema).get("properties", {}).values():
            make_optional(field)
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
