"""Arrow IPC files, which Feather files are too since version 2: cut by record batches and inside them."""

from __future__ import annotations

import pyarrow as pa

from prefect_parallel_run.child.sources import open_file
from prefect_parallel_run.datasets.formats.base import CutFile
from prefect_parallel_run.datasets.formats.row_groups import about_gaps, changed_by_gaps, pieces, shared_out
from prefect_parallel_run.datasets.listing import Listed


class Arrow:
    """Arrow IPC files."""

    def cut(self, file: Listed, size: int) -> CutFile:
        """Return *file* cut; only columns that a null may change are read, or one to count the rows."""
        with open_file(file.path) as source:
            with pa.ipc.open_file(source) as whole:
                places = changed_by_gaps(whole.schema)
                included = places or [0][: len(whole.schema)]
            counts: list[int] = []
            gaps: set[int] = set()
            with pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=included)) as narrow:
                for number in range(narrow.num_record_batches):
                    batch = narrow.get_batch(number)
                    counts.append(batch.num_rows)
                    gaps.update(place for place, column in zip(places, batch.columns, strict=False) if column.null_count)
        return CutFile(about_gaps(gaps), pieces("arrow", shared_out(counts, file.size), size))
