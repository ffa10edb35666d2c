"""Rows of a Parquet file: Arrow IPC streams, which are published with one schema for all mini-batches.

A schema carries as metadata facts about the values of its columns, beyond their types: they decide with which types the columns
of all mini-batches can be unified, from their schemas alone.
"""

import json
from typing import Any, Callable, Dict, Iterable, Iterator, List, Set, Tuple

from .rows import Encoded, RowFormat, to_frame
from .table_types import array_of, holds_entries

KEY = b"prefect_parallel_run.facts"  #: key in the schema's metadata; JSON, ``[[path of the column, fact], ...]``
NEGATIVE = "negative"  #: contains a negative integer
INEXACT = "inexact"  #: contains an integer beyond 2**53, which a float may not represent
HUGE = "huge"  #: contains an integer beyond 2**63 - 1
#: Units of time, and how many of each are a second. The name of a unit as a fact: contains a time beyond its range.
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MOST = 2**63 - 1
_EXACT = 2**53
#: Path of values: the column, then fields of structs, ``item`` of lists, ``key`` and ``value`` of maps.
Path = Tuple[str, ...]


Fact = Tuple[Path, str]  #: path of the values, and the fact


class Parquet(RowFormat):
    """Typed columns. The header is the schema, with the facts as metadata."""

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


def facts_of(table: Any, check: Callable[[str, Any, Set[str]], None] = lambda *_: None) -> Set[Fact]:
    """Return the facts of a pyarrow.Table; call *check* with column, type and facts of all values that are not nested."""
    facts: Set[Fact] = set()
    for name, column in zip(table.schema.names, table.columns):
        for path, array in (leaf for chunk in column.chunks for leaf in leaves(chunk, (name,))):
            own = set(_facts(array))
            check(name, array.type, own)
            facts.update((path, fact) for fact in own)
    return facts


def to_metadata(facts: Iterable[Fact]) -> Dict[bytes, bytes]:
    """Return facts as metadata of a schema; equal facts give equal bytes."""
    return {KEY: json.dumps(sorted(facts), separators=(",", ":")).encode()}


def _facts(array: Any) -> Iterator[str]:
    """Yield the facts of an array that is not nested."""
    import pyarrow as pa  # noqa: PLC0415  only tables need it

    kind, is_type = array.type, pa.types
    if is_type.is_integer(kind):
        yield from _of_integers(*_range(array))
    elif (is_type.is_timestamp(kind) or is_type.is_duration(kind)) and kind.unit != "ns":
        yield from _of_times(kind.unit, *_range(array.cast(pa.int64())))


def _range(array: Any) -> Tuple[int, int]:
    """Return the least and the greatest integer of an array; 0 and 0 for an empty one."""
    values = (array.drop_null() if array.null_count else array).to_numpy(zero_copy_only=False)
    return (int(values.min()), int(values.max())) if len(values) else (0, 0)


def _of_integers(least: int, most: int) -> Iterator[str]:
    if least < 0:
        yield NEGATIVE
    if least < -_EXACT or most > _EXACT:
        yield INEXACT
    if most > _MOST:
        yield HUGE


def _of_times(unit: str, least: int, most: int) -> Iterator[str]:
    size = max(-least, most)
    for finer, parts in _UNITS.items():
        if parts > _UNITS[unit] and size * (parts // _UNITS[unit]) > _MOST:
            yield finer


def leaves(array: Any, path: Path = ()) -> Iterator[Tuple[Path, Any]]:
    """Yield the arrays of values that are not nested, each with its path; a dictionary array gives its categories."""
    import pyarrow as pa  # noqa: PLC0415  only tables need it

    kind, is_type = array.type, pa.types
    if is_type.is_dictionary(kind):
        yield from leaves(array.dictionary, path)
    elif is_type.is_struct(kind):
        for field, inner in zip(kind, array.flatten()):
            yield from leaves(inner, (*path, field.name))
    elif is_type.is_map(kind):
        yield from leaves(array.keys, (*path, "key"))
        yield from leaves(array.items, (*path, "value"))
    elif hasattr(kind, "value_field"):  # a list of any layout
        yield from leaves(array.flatten(), (*path, "item"))
    else:
        yield path, array


FORMAT = Parquet()
