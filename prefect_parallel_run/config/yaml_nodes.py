"""YAML text as nodes, for every YAML file: checks syntax, nesting and aliases without constructing values."""

from __future__ import annotations

from typing import Any

import yaml

_MAX_DEPTH = 100  #: levels; far more than any real file has, and far fewer than Python's recursion limit


class UnreadableYamlError(ValueError):
    """The text is not YAML, or uses features that are not accepted.

    Args:
        line: Line number, starting at 1.
        reason: The problem.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(line, reason)
        self.line, self.reason = line, reason

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


def compose(text: str, *, aliases: bool) -> yaml.Node | None:
    """Return the root node of a YAML document; None for an empty one.

    No node contains itself, and none is nested deeper than 100 levels of mappings and lists, aliases included, so that callers
    may recurse over the nodes and their values. A deeper text is rejected as soon as that is known, since PyYAML's time grows
    with the square of the depth.

    Args:
        text: The YAML document.
        aliases: Accept aliases; all references to an anchor are one node.

    Raises:
        UnreadableYamlError: The text is not YAML, nested too deeply, or has an alias that is not accepted.
    """
    try:
        loader = _Loader(text, aliases=aliases)
        try:
            node: yaml.Node | None = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise UnreadableYamlError(_line(getattr(error, "problem_mark", None)), f"not YAML: {_problem(error)}") from None
    return node


class _Loader(yaml.SafeLoader):
    """Composes nodes as PyYAML does, and tracks their depth."""

    def __init__(self, text: str, *, aliases: bool) -> None:
        super().__init__(text)
        self._aliases = aliases
        self._level = 0  # open mappings and lists
        self._heights: dict[int, int] = {}  # by id of complete nodes, which live as long as the loader

    def fetch_flow_collection_start(self, kind: Any) -> None:
        """Check the depth at an opening bracket: the scanner runs ahead of the composer, in time quadratic in their number."""
        super().fetch_flow_collection_start(kind)
        self._check(self.flow_level, self.line + 1)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose the next node and check its depth."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = _line(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            if not self._aliases:
                raise UnreadableYamlError(line, "aliases are not accepted")
            node = super().compose_node(parent, index)
            if id(node) not in self._heights:
                raise UnreadableYamlError(line, f"*{event.anchor} contains itself")
            self._check(self._level + self._heights[id(node)], line)
            return node
        is_collection = isinstance(event, yaml.CollectionStartEvent)
        self._level += is_collection
        self._check(self._level, line)
        node = super().compose_node(parent, index)
        self._level -= is_collection
        self._heights[id(node)] = is_collection + max((self._heights[id(part)] for part in _parts(node)), default=0)
        return node

    def _check(self, levels: int, line: int) -> None:
        if levels > _MAX_DEPTH:
            raise UnreadableYamlError(
                line, f"mappings and lists are nested in more than {_MAX_DEPTH} levels; reduce the nesting"
            )


def _parts(node: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error)


def _line(mark: Any) -> int:
    return int(mark.line) + 1 if mark is not None else 1
