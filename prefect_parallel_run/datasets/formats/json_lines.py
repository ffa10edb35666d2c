"""JSON lines: divided at line ends; columns and their types are those of the whole file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prefect_parallel_run.child.csv_dialect import Dialect
from prefect_parallel_run.datasets.formats.base import CutFile, Piece
from prefect_parallel_run.datasets.input_warnings import Column
from prefect_parallel_run.datasets.schema import NULL, comparable_kind, kinds_in_lines, together_in_json
from prefect_parallel_run.datasets.text import EncodingCheck, Records, Storage, all_spans
from prefect_parallel_run.storage.folders import ListedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonLines:
    """One JSON object per line."""

    storage: Storage

    def cut(self, file: ListedFile, size: int) -> CutFile:
        """Divide *file*, which is read completely, once."""
        by_column: dict[str, set[str]] = {}
        encoding_check = EncodingCheck("utf-8")
        with self.storage.records(file.path, Dialect(), lone_returns=False) as parts:
            spans = all_spans(_collect_kinds(encoding_check.passing(parts), by_column), size)
        types = {name: together_in_json(kinds) for name, kinds in by_column.items()}
        about = {**self.storage.about(file.path), "columns": list(types), "types": list(types.values())}
        pieces = (Piece(span.rows, span.stop - span.start, span._asdict()) for span in spans)
        columns = [Column(name, comparable_kind(kinds)) for name, kinds in by_column.items()]
        return CutFile(about, pieces, columns=columns, names=list(types) or None, warnings=encoding_check.warnings)


def _collect_kinds(parts: Iterator[Records], by_column: dict[str, set[str]]) -> Iterator[Records]:
    """Yield *parts* and add the kinds in each column to *by_column*, in order of first appearance."""
    is_first = True
    for part in parts:
        records, kinds = kinds_in_lines(part.data)
        if not records:  # a blank line does not count as a record without columns
            yield part
            continue
        for name in {**by_column, **kinds}:
            missing = {NULL} if (name not in by_column and not is_first) or name not in kinds else set()
            by_column[name] = by_column.get(name, set()) | kinds.get(name, set()) | missing
        is_first = False
        yield part
