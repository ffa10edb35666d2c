"""ORC: cut by stripes and inside them."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import orc

from prefect_parallel_run.child.storage import open_file
from prefect_parallel_run.datasets.formats.base import CutFile
from prefect_parallel_run.datasets.formats.row_groups import about_gaps, allocate_bytes, changed_by_gaps, pieces
from prefect_parallel_run.storage.folders import Listed


class Orc:
    """ORC files."""

    def cut(self, file: Listed, size: int) -> CutFile:
        """Return *file* cut; only columns that a null may change are read, or one to count the rows."""
        with open_file(file.path) as source:
            whole = orc.ORCFile(source)
            places = changed_by_gaps(whole.schema)
            read = [whole.schema.field(place).name for place in places] or _narrowest(whole.schema)
            counts: list[int] = []
            gaps: set[int] = set()
            for number in range(whole.nstripes):
                stripe = whole.read_stripe(number, columns=read)
                counts.append(stripe.num_rows)
                gaps.update(place for place in places if stripe.column(whole.schema.field(place).name).null_count)
        return CutFile(about_gaps(gaps), pieces("orc", allocate_bytes(counts, file.size), size), names=whole.schema.names)


def _narrowest(schema: pa.Schema) -> list[str]:
    """Return the name of a column of numbers, or else of any."""
    by_width = sorted(schema, key=lambda field: pa.types.is_nested(field.type) * 2 + (not pa.types.is_primitive(field.type)))
    return [field.name for field in by_width[:1]]
