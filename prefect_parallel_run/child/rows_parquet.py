"""Rows of a Parquet file: Arrow IPC streams, which are published with one schema for all mini-batches."""

from typing import Any, Dict, Set, Tuple

from .rows import Encoded, RowFormat, to_frame


class Parquet(RowFormat):
    """Typed columns. The header is the schema, with the facts as metadata."""

    suffix = ".parquet"
    table_format = "parquet"
    file = "a Parquet file"  #: in errors
    #: Beginnings of Arrow types that the file cannot hold.
    unsupported: Tuple[str, ...] = ("dense_union", "sparse_union", "run_end_encoded", "month_day_nano_interval")

    def encode(self, value: Any, with_header: bool, options: Dict[str, Any]) -> Encoded:  # noqa: ARG002, D102  inherited
        import pyarrow as pa  # noqa: PLC0415  only this format needs it

        from .arrow_values import facts_of, table_of, to_metadata  # noqa: PLC0415  imports pyarrow

        frame = to_frame(value)
        if not len(frame):
            return Encoded(0, b"", b"")
        if not frame.shape[1]:
            raise ValueError(f"the rows have no columns; {self.file} needs at least one")
        frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
        table = table_of(frame)
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


FORMAT = Parquet()
