"""YAML files as plain values with line numbers: one reader, on PyYAML's nodes, for configurations and for Azure's files.

A configuration is read strictly: without aliases, and without values that YAML 1.1 does not read as they look. Azure's files
are read as Azure's tools read them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

_MAX_DEPTH = 100  #: levels; far more than any real file has, and far fewer than Python's recursion limit
_MAX_BYTES = 1 << 20
_TAG = "tag:yaml.org,2002:"
_SCALARS = ("str", "int", "float", "bool", "null")
#: By tag: the plain values that are not ambiguous, and a description of the others.
_STRICT = {
    "int": (re.compile(r"0|[-+]?[1-9][0-9]*"), "a number with a leading zero, a colon or '_'"),
    "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), "a word that YAML 1.1 reads as true or false"),
    "float": (re.compile(r"[^:]*"), "a base-60 number in YAML 1.1"),
}


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
        return ValueError(f"{self.where(key)}: {key} is {self.get(key)!r}; expected {expected}")

    def where(self, key: str) -> str:
        """Return file and line of *key*."""
        return f"{self.sources.get(key, self.file)}, line {self.lines.get(key, 1)}"


def read_document(path: Path, *, strict: bool = False) -> Section:
    """Return the mapping in a YAML file; in a file of Azure's, dates stay strings.

    Raises:
        ValueError: The file is not YAML with a mapping, has a duplicate key or a custom tag, or is read strictly and has an
            alias or an ambiguous value; the error names the line.
        OSError: The file cannot be read.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path}: the file has over {_MAX_BYTES} bytes; expected a configuration, a job or a table definition")
    try:
        node = compose(path.read_text(encoding="utf-8-sig"), aliases=not strict)
    except UnreadableYamlError as error:
        raise ValueError(f"{path}, {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line 1: not YAML: {error}") from None
    document = _Reader(path, strict=strict).value(node) if node is not None else None
    if not isinstance(document, Section):
        raise ValueError(f"{path}, line 1: expected a mapping of fields")
    return document


def read_value(text: str, where: str) -> Any:
    """Return *text* as the value of a configuration's field; raises ValueError that starts with *where*."""
    try:
        node = compose(text, aliases=False)
    except UnreadableYamlError as error:
        raise ValueError(f"{where}: {error.reason}") from None
    return None if node is None else plain(_Reader(Path(where), strict=True).value(node))


def plain(value: Any) -> Any:
    """Return *value* with plain dictionaries in place of sections."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list) else value


class _Reader:
    """Converts nodes to values; an aliased node becomes one shared value, so that aliases cannot exhaust memory."""

    def __init__(self, path: Path, *, strict: bool) -> None:
        self._path, self._strict = path, strict
        self._known: dict[int, Any] = {}
        self._loader = yaml.SafeLoader("")

    def value(self, node: yaml.Node) -> Any:
        if id(node) not in self._known:
            self._known[id(node)] = self._convert(node)
        return self._known[id(node)]

    def _convert(self, node: yaml.Node) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._section(node)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(item) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and kind == "timestamp" and not self._strict:
            return str(node.value)
        if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
            return self._scalar(node, kind)
        raise self._error(node, f"unexpected {node.tag}; expected a plain value")

    def _scalar(self, node: yaml.ScalarNode, kind: str) -> Any:
        if self._strict and kind in _STRICT:
            expected, description = _STRICT[kind]
            if not expected.fullmatch(node.value):
                raise self._error(node, f"{node.value} is {description}; write it differently, or put it in quotes")
        try:
            return self._loader.construct_object(node)
        except (ValueError, KeyError):  # a tag such as !!int before another text
            raise self._error(node, f"{node.value!r} is not a value of the type !!{kind}") from None

    def _section(self, node: yaml.MappingNode) -> Section:
        section = Section(self._path)
        for key_node, value in node.value:
            key = self._key(key_node)
            if key in section:
                raise self._error(key_node, f"duplicate key {key!r}")
            section[key] = self.value(value)
            section.lines[key] = _line(key_node.start_mark)
        return section

    def _key(self, node: yaml.Node) -> str:
        is_string = isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}str"
        if not is_string and (self._strict or not isinstance(node, yaml.ScalarNode)):
            raise self._error(node, "expected a string as key; put it in quotes")
        return str(self.value(node))

    def _error(self, node: yaml.Node, message: str) -> ValueError:
        return ValueError(f"{self._path}, line {_line(node.start_mark)}: {message}")


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
        problem = getattr(error, "problem", None) or error
        raise UnreadableYamlError(_line(getattr(error, "problem_mark", None)), f"not YAML: {problem}") from None
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


def _line(mark: Any) -> int:
    return int(mark.line) + 1 if mark is not None else 1
