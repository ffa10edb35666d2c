"""Parquet: cut by row groups and inside them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.parquet as pq

from prefect_parallel_run.child.sources import open_file
from prefect_parallel_run.datasets.folders import Listed
from prefect_parallel_run.datasets.formats.base import CutFile
from prefect_parallel_run.datasets.formats.row_groups import Group, about_gaps, changed_by_gaps, pieces
from prefect_parallel_run.datasets.partitions import noted_values


class Parquet:
    """Parquet files."""

    def cut(self, file: Listed, size: int) -> CutFile:
        """Return *file* cut, by its footer alone if that knows where the nulls are."""
        with open_file(file.path) as source, pq.ParquetFile(source) as parquet:
            metadata = parquet.metadata
            gaps = list(_gaps(parquet))
        numbered = enumerate(map(metadata.row_group, range(metadata.num_row_groups)))
        groups = (Group(number, group.num_rows, group.total_byte_size) for number, group in numbered)
        return CutFile(about_gaps(gaps), pieces("parquet", groups, size), noted_values(metadata.metadata))


def _gaps(parquet: pq.ParquetFile) -> Iterator[int]:
    """Yield the places of the columns that have a null and a type that this changes."""
    metadata, schema = parquet.metadata, parquet.schema_arrow
    leaves: dict[str, list[int]] = {}
    for leaf in range(metadata.num_columns):
        leaves.setdefault(metadata.schema.column(leaf).path, []).append(leaf)
    for place in changed_by_gaps(schema):
        name = schema.field(place).name
        if any(_has_nulls(parquet, group, name, leaves[name]) for group in range(metadata.num_row_groups)):
            yield place


def _has_nulls(parquet: pq.ParquetFile, number: int, name: str, leaves: list[int]) -> bool:
    group = parquet.metadata.row_group(number)
    statistics = [group.column(leaf).statistics for leaf in leaves]
    if all(one is not None and one.has_null_count for one in statistics):
        return any(one.null_count for one in statistics)
    return any(column.null_count for column in parquet.read_row_group(number, columns=[name]).columns)
