"""ORC: divided at and inside stripes."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import orc

from prefect_parallel_run.child.storage import open_file
from prefect_parallel_run.datasets.formats.base import CutFile
from prefect_parallel_run.datasets.formats.row_groups import about_gaps, allocate_bytes, changed_by_gaps, pieces
from prefect_parallel_run.storage.folders import ListedFile


class Orc:
    """ORC files."""

    def cut(self, file: ListedFile, size: int) -> CutFile:
        """Divide *file*; reads only columns whose type depends on nulls (without any, one column to count rows)."""
        with open_file(file.path) as source:
            orc_file = orc.ORCFile(source)
            indices = changed_by_gaps(orc_file.schema)
            columns = [orc_file.schema.field(index).name for index in indices] or _narrowest(orc_file.schema)
            counts: list[int] = []
            gaps: set[int] = set()
            for number in range(orc_file.nstripes):
                stripe = orc_file.read_stripe(number, columns=columns)
                counts.append(stripe.num_rows)
                gaps.update(index for index in indices if stripe.column(orc_file.schema.field(index).name).null_count)
        return CutFile(about_gaps(gaps), pieces("orc", allocate_bytes(counts, file.size), size), names=orc_file.schema.names)


def _narrowest(schema: pa.Schema) -> list[str]:
    """Return the name of a column of numbers, or else of any column."""
    by_width = sorted(schema, key=lambda field: pa.types.is_nested(field.type) * 2 + (not pa.types.is_primitive(field.type)))
    return [field.name for field in by_width[:1]]
