"""Reads the Parquet files of a lakehouse table; their columns become those of the table."""

import base64
from typing import Any, Dict, Sequence

import pyarrow as pa

from .row_groups import ParquetReader


class LakehouseReader(ParquetReader):
    """Reads row groups of Parquet files, and adds the columns that only the metadata of their table has."""

    def decode(self, work: Dict[str, Any], numbers: Sequence[int]) -> Any:
        """Return row groups with the columns of the table that are kept."""
        if "columns" not in work:
            return super().decode(work, numbers).replace_schema_metadata(None)  # it may have types of pandas, unlike the table
        stored = [work["renamed"].get(name, name) for name in work["columns"]]
        table = super().decode({**work, "keep_columns": stored}, numbers)
        names = {work["renamed"][name]: name for name in work["renamed"]}
        table = table.rename_columns([names.get(name, name) for name in table.column_names])
        row = pa.ipc.open_stream(base64.b64decode(work["row"])).read_all()
        columns = [_column(name, table, row, name in work["cast"]) for name in work["columns"]]
        return pa.Table.from_arrays(columns, names=work["columns"])


def _column(name: str, table: Any, row: Any, is_cast: bool) -> Any:
    """Return a column of the file, in the type that *row* has if *is_cast*, or the value in *row* for every row."""
    if name not in row.column_names:
        return table[name]
    value = row[name][0]
    if is_cast:
        return table[name].cast(value.type)
    return pa.repeat(value, table.num_rows) if value.is_valid else pa.nulls(table.num_rows, value.type)
