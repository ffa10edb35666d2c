"""Rows of an ORC file: Arrow IPC streams like those for Parquet, but of fewer types."""

from typing import Any, Set

from .rows_parquet import Parquet


class Orc(Parquet):
    """Typed columns; output/formats/orc.py writes what ORC lacks as the nearest type without loss."""

    suffix = ".orc"
    table_format = "orc"
    file = "an ORC file"
    unsupported = (*Parquet.unsupported, "time32", "time64", "duration", "date64", "decimal256")

    def check(self, column: str, kind: Any, facts: Set[str]) -> None:
        """Refuse times, too, that could not be read again: pyarrow reads every time of an ORC file in nanoseconds."""
        super().check(column, kind, facts)
        if "ns" in facts:
            raise ValueError(
                f"column {column!r} has times before 1677 or after 2262, which pyarrow cannot read from {self.file};"
                " return strings, or dates without a time"
            )


FORMAT = Orc()
