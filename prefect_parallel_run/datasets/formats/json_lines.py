"""JSON lines: cut at line ends; the columns and their types are those of the whole file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prefect_parallel_run.child.csv_dialect import Dialect
from prefect_parallel_run.datasets.formats.base import CutFile, Piece
from prefect_parallel_run.datasets.formats.text import Encoded, Storage
from prefect_parallel_run.datasets.input_warnings import Column
from prefect_parallel_run.datasets.record_ends import Records
from prefect_parallel_run.datasets.schema import NULL, kinds_in_lines, together_in_json, told
from prefect_parallel_run.datasets.text_splitting import all_spans
from prefect_parallel_run.storage.folders import Listed


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonLines:
    """One JSON object per line."""

    storage: Storage

    def cut(self, file: Listed, size: int) -> CutFile:
        """Return *file* cut; it is read once, from beginning to end."""
        found: dict[str, set[str]] = {}
        encoded = Encoded("utf-8")
        with self.storage.records(file.path, Dialect(), lone_returns=False) as parts:
            spans = all_spans(_looked_at(encoded.look(parts), found), size)
        types = {name: together_in_json(kinds) for name, kinds in found.items()}
        about = {**self.storage.about(file.path), "columns": list(types), "types": list(types.values())}
        pieces = (Piece(span.rows, span.stop - span.start, span._asdict()) for span in spans)
        columns = [Column(name, told(kinds)) for name, kinds in found.items()]
        return CutFile(about, pieces, columns=columns, names=list(types) or None, doubts=encoded.doubts)


def _looked_at(parts: Iterator[Records], found: dict[str, set[str]]) -> Iterator[Records]:
    """Pass *parts* on, and note in *found* what is in each column, in the order in which the columns first come."""
    is_first = True
    for part in parts:
        records, kinds = kinds_in_lines(part.data)
        if not records:  # blank lines lack no column
            yield part
            continue
        for name in {**found, **kinds}:
            missing = {NULL} if (name not in found and not is_first) or name not in kinds else set()
            found[name] = found.get(name, set()) | kinds.get(name, set()) | missing
        is_first = False
        yield part
