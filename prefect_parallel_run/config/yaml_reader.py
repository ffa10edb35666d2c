"""YAML text as nodes, for every YAML file: checks syntax, nesting and aliases without constructing values."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

_MAX_DEPTH = 100  #: levels; far more than any real file has, and far fewer than Python's recursion limit
_MAX_BYTES = 1 << 20
_SCALARS = ("int", "float", "bool", "null")


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


class Section(dict[str, Any]):
    """A mapping of a YAML file.

    Attributes:
        file: The file; relative paths are relative to its folder.
        lines: Line number of every key.
        sources: File of the keys that come from another file.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.lines: dict[str, int] = {}
        self.sources: dict[str, Path] = {}

    def set_from(self, key: str, value: Any, source: Section) -> None:
        """Set *key* to *value*, with the file and line of that key in *source*."""
        self[key] = value
        self.lines[key] = source.lines.get(key, 1)
        self.sources[key] = source.sources.get(key, source.file)

    def section(self, key: str) -> Section:
        """Return the mapping under *key*, empty if there is none; raises ValueError for anything else."""
        section = self.get(key)
        if section is None:
            section = Section(self.file)
        if not isinstance(section, Section):
            raise self.error(key, "a mapping")
        return section

    def error(self, key: str, expected: str) -> ValueError:
        """Return the error for an invalid value of *key*; it names file, line and value."""
        return ValueError(f"{self.where(key)}: {key} is {self[key]!r}; expected {expected}")

    def where(self, key: str) -> str:
        """Return file and line of *key*."""
        return f"{self.sources.get(key, self.file)}, line {self.lines.get(key, 1)}"


def read_document(path: Path) -> Section:
    """Return the mapping in a YAML file, read as Azure's tools read it; dates stay strings.

    Raises:
        ValueError: The file is not YAML with a mapping, or has a duplicate key or a custom tag; the error names the line.
        OSError: The file cannot be read.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path}: the file has over {_MAX_BYTES} bytes; expected a job or a table definition")
    try:
        node = compose(path.read_text(encoding="utf-8-sig"), aliases=True)
    except UnreadableYamlError as error:
        raise ValueError(f"{path}, {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line 1: not YAML: {error}") from None
    document = _Reader(path).value(node) if node is not None else None
    if not isinstance(document, Section):
        raise ValueError(f"{path}, line 1: expected a mapping of fields")
    return document


class _Reader:
    """Converts nodes to values; an aliased node becomes one shared value, so that aliases cannot exhaust memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[int, Any] = {}
        self._loader = yaml.SafeLoader("")

    def value(self, node: yaml.Node) -> Any:
        if id(node) not in self._known:
            self._known[id(node)] = self._convert(node)
        return self._known[id(node)]

    def _convert(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._section(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.value(item) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and node.tag.rpartition(":")[2] in ("str", "timestamp"):
            return str(node.value)
        if isinstance(node, yaml.ScalarNode) and node.tag in {f"tag:yaml.org,2002:{kind}" for kind in _SCALARS}:
            return self._loader.construct_object(node)
        raise self._error(node, f"unexpected {node.tag}; expected a plain value")

    def _section(self, node: yaml.MappingNode) -> Section:
        section = Section(self._path)
        for key_node, value in node.value:
            key = self.value(key_node)
            if not isinstance(key, Hashable) or isinstance(key, Section):
                raise self._error(key_node, "expected a string as key")
            if str(key) in section:
                raise self._error(key_node, f"duplicate key {key!r}")
            section[str(key)] = self.value(value)
            section.lines[str(key)] = key_node.start_mark.line + 1
        return section

    def _error(self, node: yaml.Node, message: str) -> ValueError:
        return ValueError(f"{self._path}, line {node.start_mark.line + 1}: {message}")
