"""HTML that escapes by itself: what is not made here is text, whatever is in it. Pure."""

from __future__ import annotations

import html
import json
from typing import Any

from prefect_parallel_run.monitoring.logs import escape_control_chars

_VOID = {"meta", "br"}
_SHAPES = {"rect", "path", "line", "circle", "use"}


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Html:
    r"""Return *value* as HTML that shows it; what a reader cannot see is written out.

    >>> text('<b>&"\x07')
    '&lt;b&gt;&amp;&quot;\\x07'
    """
    return value if isinstance(value, Html) else Html(html.escape(escape_control_chars(str(value)), quote=True))


def el(tag: str, *children: object, **attributes: object) -> Html:
    """Return an element; children that are no Html are text, None is left out, and so are attributes that are None or False.

    >>> el("p", "a < b", class_="x", aria_hidden="true")
    '<p class="x" aria-hidden="true">a &lt; b</p>'
    """
    given = "".join(_attribute(name, value) for name, value in attributes.items() if value is not None and value is not False)
    if tag in _VOID:
        return Html(f"<{tag}{given}>")
    inside = "".join(text(child) for child in children if child is not None)
    return Html(f"<{tag}{given}/>" if tag in _SHAPES and not inside else f"<{tag}{given}>{inside}</{tag}>")


def join(*parts: object) -> Html:
    """Return parts one after the other."""
    return Html("".join(text(part) for part in parts if part is not None))


def embedded(value: Any) -> Html:
    r"""Return *value* as JSON that can stand in a script element: nothing in it can end that.

    >>> embedded({"a": "</script>"})
    '{"a":"\\u003c/script\\u003e"}'
    """
    given = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Html(given.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _attribute(name: str, value: object) -> str:
    shown = name.rstrip("_").replace("_", "-")
    return f" {shown}" if value is True else f' {shown}="{text(value)}"'
