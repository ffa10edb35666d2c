"""YAML files that Azure's tools write and read: plain values that know their lines."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from prefect_parallel_run.config.yaml_nodes import UnreadableYamlError, compose

_MOST_BYTES = 1 << 20


class Section(dict[str, Any]):
    """A mapping of a YAML file.

    Attributes:
        file: Where it was read from; relative paths count from its folder.
        lines: Line of every key.
        sources: File of the keys that were read from another one.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.lines: dict[str, int] = {}
        self.sources: dict[str, Path] = {}

    def take(self, key: str, value: Any, source: Section) -> None:
        """Have *value* under a key that stands in *source*, and say so."""
        self[key] = value
        self.lines[key] = source.lines.get(key, 1)
        self.sources[key] = source.sources.get(key, source.file)

    def section(self, key: str) -> Section:
        """Return the mapping under *key*, an empty one where there is none; raises ValueError for anything else."""
        found = self.get(key)
        if found is None:
            found = Section(self.file)
        if not isinstance(found, Section):
            raise self.wrong(key, "a mapping")
        return found

    def wrong(self, key: str, accepted: str) -> ValueError:
        """Return the error for what stands under *key*; it names file, line and value."""
        return ValueError(f"{self.where(key)}: {key} is {self[key]!r}; accepted: {accepted}")

    def where(self, key: str) -> str:
        """Return file and line of *key*."""
        return f"{self.sources.get(key, self.file)}, line {self.lines.get(key, 1)}"


def read_document(path: Path) -> Section:
    """Return the mapping that a YAML file is, read as Azure's tools read it; dates stay texts.

    Raises:
        ValueError: It is no YAML file with a mapping, or has a key twice or a tag of its own; the error names the line.
        OSError: It cannot be read.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path}: is over {_MOST_BYTES} bytes; that is no job and no table definition")
    try:
        node = compose(path.read_text(encoding="utf-8-sig"), aliases=True)
    except UnreadableYamlError as error:
        raise ValueError(f"{path}, {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line 1: not YAML: {error}") from None
    found = _Reader(path).value(node) if node is not None else None
    if not isinstance(found, Section):
        raise ValueError(f"{path}, line 1: is no mapping of fields")  # noqa: TRY004  a file's value
    return found


class _Reader:
    """Makes values of nodes; a node that is referred to twice is one value, so that no file grows while it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[int, Any] = {}
        self._loader = yaml.SafeLoader("")

    def value(self, node: yaml.Node) -> Any:
        if id(node) not in self._known:
            self._known[id(node)] = self._made(node)
        return self._known[id(node)]

    def _made(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._section(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.value(one) for one in node.value]
        if isinstance(node, yaml.ScalarNode) and node.tag.rpartition(":")[2] in ("str", "timestamp"):
            return str(node.value)
        if isinstance(node, yaml.ScalarNode) and node.tag in {f"tag:yaml.org,2002:{kind}" for kind in _SCALARS}:
            return self._loader.construct_object(node)
        raise self._wrong(node, f"{node.tag} is not accepted; only plain values are")

    def _section(self, node: yaml.MappingNode) -> Section:
        found = Section(self._path)
        for key_node, value in node.value:
            key = self.value(key_node)
            if not isinstance(key, Hashable) or isinstance(key, Section):
                raise self._wrong(key_node, "a key must be a text")
            if str(key) in found:
                raise self._wrong(key_node, f"the key {key!r} stands here twice")
            found[str(key)] = self.value(value)
            found.lines[str(key)] = key_node.start_mark.line + 1
        return found

    def _wrong(self, node: yaml.Node, words: str) -> ValueError:
        return ValueError(f"{self._path}, line {node.start_mark.line + 1}: {words}")


_SCALARS = ("int", "float", "bool", "null")
