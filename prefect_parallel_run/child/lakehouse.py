"""Reads the Parquet files of a lakehouse table; their columns become those of the table."""

import base64
from typing import Any, Dict, Optional, Sequence

import pyarrow as pa

from .row_groups import ParquetReader


class LakehouseReader(ParquetReader):
    """Reads row groups of Parquet files, and adds the columns that only the metadata of their table has."""

    def decode(self, work: Dict[str, Any], numbers: Sequence[int]) -> Any:
        """Return row groups with the columns of the table that are kept."""
        if "columns" not in work:
            return super().decode(work, numbers).replace_schema_metadata(None)  # it may have types of pandas, unlike the table
        stored = [name for name in work["columns"].values() if name is not None]
        table = super().decode({**work, "keep_columns": stored}, numbers)
        row = pa.ipc.open_stream(base64.b64decode(work["row"])).read_all()
        return pa.table({name: _column(name, stored, table, row) for name, stored in work["columns"].items()})


def _column(name: str, stored: Optional[str], table: Any, row: Any) -> Any:
    """Return column *stored* of the file, cast to its type in *row* if it is there; if the file lacks it, repeat its value."""
    if stored is not None:
        return table[stored].cast(row.schema.field(name).type) if name in row.column_names else table[stored]
    value = row[name][0]
    return pa.repeat(value, table.num_rows) if value.is_valid else pa.nulls(table.num_rows, value.type)
