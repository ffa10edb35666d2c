"""YAML files of Azure's tools, as plain values with their line numbers."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from prefect_parallel_run.config.yaml_nodes import UnreadableYamlError, compose

_MAX_BYTES = 1 << 20


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


_SCALARS = ("int", "float", "bool", "null")
