"""YAML text as nodes, for every YAML file that is read: syntax, nesting and aliases are checked, values are not made."""

from __future__ import annotations

from typing import Any

import yaml

_DEEPEST = 100  #: levels; far more than any file of ours or of Azure's has, and far less than Python's own recursion allows


class UnreadableYamlError(ValueError):
    """A text is not YAML, or not of the kind that is read.

    Args:
        line: Where, from 1.
        reason: What is wrong.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(line, reason)
        self.line, self.reason = line, reason

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


def compose(text: str, *, aliases: bool) -> yaml.Node | None:
    """Return the root node of a YAML document; None for an empty one.

    No node contains itself, and none is more than 100 levels of mappings and lists deep, aliases followed: who goes through
    the nodes, or through values made of them, may do so recursively. A text that is nested more deeply is given up as soon as
    that is seen, since PyYAML's time grows with the square of the depth.

    Args:
        text: Of the document.
        aliases: Accept them; what they refer to is one node.

    Raises:
        UnreadableYamlError: As its name says.
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
    """Composes nodes as PyYAML does, and knows how deep it is."""

    def __init__(self, text: str, *, aliases: bool) -> None:
        super().__init__(text)
        self._aliases = aliases
        self._level = 0  # mappings and lists that are open
        self._heights: dict[int, int] = {}  # of the nodes that are complete, which live as long as the loader: by id

    def fetch_flow_collection_start(self, kind: Any) -> None:
        """Read an opening bracket; the scanner runs ahead of the composer, and its time grows with the square of these."""
        super().fetch_flow_collection_start(kind)
        self._check(self.flow_level, self.line + 1)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose the next node."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = _line(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            if not self._aliases:
                raise UnreadableYamlError(line, "aliases are not accepted")
            node = super().compose_node(parent, index)
            if id(node) not in self._heights:
                raise UnreadableYamlError(line, f"*{event.anchor} is a part of itself")
            self._check(self._level + self._heights[id(node)], line)
            return node
        is_collection = isinstance(event, yaml.CollectionStartEvent)
        self._level += is_collection
        self._check(self._level, line)
        node = super().compose_node(parent, index)
        self._level -= is_collection
        self._heights[id(node)] = is_collection + max((self._heights[id(one)] for one in _parts(node)), default=0)
        return node

    def _check(self, levels: int, line: int) -> None:
        if levels > _DEEPEST:
            raise UnreadableYamlError(line, f"mappings and lists are nested in more than {_DEEPEST} levels; write it flatter")


def _parts(node: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error)


def _line(mark: Any) -> int:
    return int(mark.line) + 1 if mark is not None else 1
