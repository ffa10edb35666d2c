"""The directive ``configuration``: the fields of a pydantic model, generated from the model itself.

```{configuration} prefect_parallel_run.ParallelRunConfig
```
"""

from __future__ import annotations

import pkgutil
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Configuration(SphinxDirective):
    """One definition per field: type, default, limits and description."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        schema = pkgutil.resolve_name(self.arguments[0]).model_json_schema()
        items = []
        for name, field in schema["properties"].items():
            is_required = name in schema.get("required", ())
            term = nodes.term("", "", nodes.literal("", name), ids=[f"field-{name}"])
            facts = f"{_type(field)}; {'required' if is_required else _default(field)}"
            body = nodes.definition("", nodes.paragraph("", "", nodes.emphasis("", facts)))
            body += nodes.paragraph("", field.get("description", ""))
            items.append(nodes.definition_list_item("", term, body))
        return [nodes.definition_list("", *items)]


def _type(field: dict[str, Any]) -> str:
    """Return the type of a field in words, with its limits."""
    if "anyOf" in field:
        return " or ".join(_type(choice) for choice in field["anyOf"] if choice.get("type") != "null")
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2]
    if "enum" in field:
        return " or ".join(map(str, field["enum"]))
    limits = [
        f"{words} {field[key]}"
        for key, words in (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"))
        if key in field
    ]
    if field["type"] == "array":
        return f"list of {_type(field['items'])}s"
    return ", ".join([field["type"], *limits])


def _default(field: dict[str, Any]) -> str:
    return f"default {field['default']!r}" if "default" in field else "optional"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("configuration", Configuration)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
