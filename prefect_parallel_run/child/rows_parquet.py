"""Rows of a Parquet file: Arrow IPC streams, which are published with one schema for all mini-batches."""

from typing import Any, Dict, List, Set, Tuple

from .column_facts import facts_of, to_metadata
from .nested import array_of, holds_entries
from .rows import Encoded, RowFormat, to_frame


class Parquet(RowFormat):
    """Typed columns. The header is the schema, with the facts of column_facts.py as metadata."""

    suffix = ".parquet"
    table_format = "parquet"
    file = "a Parquet file"  #: in errors
    #: Beginnings of Arrow types that the file cannot hold.
    unsupported: Tuple[str, ...] = ("dense_union", "sparse_union", "run_end_encoded", "month_day_nano_interval")

    def encode(self, value: Any, with_header: bool, options: Dict[str, Any]) -> Encoded:  # noqa: ARG002, D102  inherited
        import pyarrow as pa  # noqa: PLC0415  only this format needs it

        frame = to_frame(value)
        if not len(frame):
            return Encoded(0, b"", b"")
        if not frame.shape[1]:
            raise ValueError(f"the rows have no columns; {self.file} needs at least one")
        frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
        objects = [name for name, column in frame.items() if column.dtype == object]
        try:
            table = _table(frame, [name for name in objects if holds_entries(frame[name])])
        except OverflowError:  # pyarrow infers int64 for every integer in them
            table = _table(frame, objects)
        table = table.replace_schema_metadata(to_metadata(facts_of(table, self.check)))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        stream = sink.getvalue().to_pybytes()
        length = 8 + int.from_bytes(stream[4:8], "little")  # of the first message, including its marker and its length
        return Encoded(len(frame), stream[:length], stream[length:])

    def check(self, column: str, kind: Any, facts: Set[str]) -> None:  # noqa: ARG002  other formats need the facts
        """Raise ValueError for a column with values of an Arrow type, or with facts, that the file cannot hold."""
        if str(kind).startswith(self.unsupported):
            raise ValueError(
                f"column {column!r} has values of type {kind}, which {self.file} cannot hold; return values of another type"
            )


def _table(frame: Any, own: List[str]) -> Any:
    """Return a DataFrame as an Arrow table; the arrays of the columns *own* are built by array_of instead of pyarrow."""
    import pyarrow as pa  # noqa: PLC0415  only this format needs it

    table = pa.Table.from_pandas(frame.drop(columns=own), preserve_index=False)
    if not own:
        return table
    return pa.table({name: array_of(list(frame[name])) if name in own else table.column(name) for name in frame.columns})


FORMAT = Parquet()
