"""HTML with automatic escaping: every string that is not an Html object is text. Pure."""

from __future__ import annotations

import html
import json
from typing import Any

from prefect_parallel_run.monitoring.logs import escape_control_chars

_VOID = {"meta", "br"}
_SHAPES = {"rect", "path", "line", "circle", "use"}


class Html(str):
    """A string that is HTML and needs no escaping."""

    __slots__ = ()


def text(value: object) -> Html:
    r"""Return *value* as escaped HTML; control characters are written as escapes.

    >>> text('<b>&"\x07')
    '&lt;b&gt;&amp;&quot;\\x07'
    """
    return value if isinstance(value, Html) else Html(html.escape(escape_control_chars(str(value)), quote=True))


def el(tag: str, *children: object, **attributes: object) -> Html:
    """Return an element. Other children than Html are escaped; children and attributes that are None are omitted, as is False.

    >>> el("p", "a < b", class_="x", aria_hidden="true")
    '<p class="x" aria-hidden="true">a &lt; b</p>'
    """
    attribute_text = "".join(
        _attribute(name, value) for name, value in attributes.items() if value is not None and value is not False
    )
    if tag in _VOID:
        return Html(f"<{tag}{attribute_text}>")
    content = "".join(text(child) for child in children if child is not None)
    return Html(f"<{tag}{attribute_text}/>" if tag in _SHAPES and not content else f"<{tag}{attribute_text}>{content}</{tag}>")


def join(*parts: object) -> Html:
    """Return the parts in sequence; None is omitted."""
    return Html("".join(text(part) for part in parts if part is not None))


def embedded(value: Any) -> Html:
    r"""Return *value* as JSON for a script element; no content can close the element.

    >>> embedded({"a": "</script>"})
    '{"a":"\\u003c/script\\u003e"}'
    """
    encoded = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Html(encoded.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _attribute(name: str, value: object) -> str:
    attribute = name.rstrip("_").replace("_", "-")
    return f" {attribute}" if value is True else f' {attribute}="{text(value)}"'
