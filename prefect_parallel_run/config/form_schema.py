"""How a model looks as a form: its JSON schema, made for people who fill it in. Pure.

Prefect's UI draws a form from the schema, and Prefect's server holds what was filled in against it. A field that may be
None would become two tabs, one of which says "None"; here it is one field that may be left empty. Where several other
choices make tabs necessary, None is the last of them, and the form opens with the first.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

_NONE = "Default"  #: what the tab for None says


class FormModel(BaseModel):
    """A model that people fill in; what its schema accepts does not change how it validates."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema with fields that may be left empty instead of tabs for None."""
        schema = handler(core_schema)
        for field in handler.resolve_ref_schema(schema).get("properties", {}).values():
            may_be_left_empty(field)
        return schema


def may_be_left_empty(field: dict[str, Any]) -> None:
    """Change the schema of a field that may be None: one choice without tabs when there is one, else None as the last tab.

    What a form leaves empty it does not send. None is still accepted when it is sent: by Prefect's server where one type is
    left (a field that is not required and has no default), and as a tab elsewhere.

    >>> field = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "default": None, "title": "Nodes"}
    >>> may_be_left_empty(field)
    >>> field
    {'title': 'Nodes', 'type': 'integer', 'minimum': 1}
    """
    if field.get("default", 0) in (None, {}, []):
        del field["default"]  # it would be sent, and an empty mapping has no editor
    choices = field.get("anyOf", [])
    others = [choice for choice in choices if choice.get("type") != "null"]
    if len(others) == len(choices):
        return
    if len(others) == 1 and "type" in others[0] and "enum" not in others[0]:
        del field["anyOf"]
        for key, value in others[0].items():
            field.setdefault(key, value)
    else:
        field["anyOf"] = [*others, {"type": "null", "title": _NONE}]
