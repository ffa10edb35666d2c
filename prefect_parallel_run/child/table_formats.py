"""Registry of table formats. Each entry names a planner and a reader.

A new format takes three steps:

1. In ``datasets/formats/``, a ``TablePlanner``: its ``plan`` recognizes a file, finds the names and types of its columns, and
   divides its rows into pieces. Each piece becomes the ``work`` of a mini-batch.
2. In this folder, a ``TableReader``: it returns the rows of a ``work`` as a DataFrame. All mini-batches of a file must have
   the same columns and types, so what only the whole file shows (a null, a word in a column of numbers) has to be in the work.
3. An entry in TABLE_FORMATS. The checks of TabularDataset, the command line and the form of the ready-made flows follow it. A
   ``from_NAME_files`` of TabularDataset is for users who write Python.
"""

import importlib
from abc import ABC, abstractmethod
from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple, cast


class TableFormat(NamedTuple):
    """An entry of the registry."""

    title: str  #: for users
    planner: str  #: module and class in ``datasets/formats/``
    reader: str  #: module and class in this folder
    about: str = ""  #: what users have to know besides
    options: Tuple[str, ...] = ()  #: fields of TabularDataset that apply to it
    groups: str = ""  #: field of a work with the numbers of the groups of rows that are decoded together
    group: str = ""  #: for users: one of these
    modules: Tuple[str, ...] = ()  #: imported before the first mini-batch, besides pandas and pyarrow
    is_named: bool = False  #: the paths are names in a catalog


_TEXT = ("encoding", "compression")
_DIALECT = ("delimiter", "quote", "escape", "double_quote", "header", "decimal", "column_types", "na_values", "keep_default_na")
_PARQUET = TableFormat(
    "Parquet",
    "row_groups.Parquet",
    "row_groups.ParquetReader",
    about="Keys of hive folders (store=1/…) become columns.",
    groups="row_groups",
    group="row group",
    modules=("pyarrow.parquet",),
)
TABLE_FORMATS: Dict[str, TableFormat] = {
    "parquet": _PARQUET,
    "delimited": TableFormat("Delimited text", "delimited.Delimited", "delimited.DelimitedReader", options=(*_DIALECT, *_TEXT)),
    "json_lines": TableFormat("JSON lines", "json_lines.JsonLines", "json_lines.JsonLinesReader", options=_TEXT),
    "arrow": TableFormat(
        "Arrow",
        "row_groups.Arrow",
        "row_groups.ArrowReader",
        about="Arrow IPC files and streams, and Feather (version 2).",
        groups="batches",
        group="batch",
    ),
    "orc": TableFormat(
        "ORC", "row_groups.Orc", "row_groups.OrcReader", groups="stripes", group="stripe", modules=("pyarrow.orc",)
    ),
    "delta": _PARQUET._replace(
        title="Delta table",
        planner="delta.Delta",
        reader="lakehouse.LakehouseReader",
        about="The path is the folder of one table; the run reads one version of it.",
        options=("version",),
    ),
    "iceberg": _PARQUET._replace(
        title="Iceberg table",
        planner="iceberg.Iceberg",
        reader="lakehouse.LakehouseReader",
        about="The path is CATALOG.NAMESPACE.TABLE; the run reads one snapshot of it.",
        options=("version",),
        is_named=True,
    ),
}


class TableReader(ABC):
    """Reads mini-batches of one format; may keep what it has decoded, because the next mini-batch probably needs it too."""

    @abstractmethod
    def read(self, work: Dict[str, Any], piece: Optional[Sequence[int]] = None) -> Any:
        """Return the rows of *work* as a DataFrame, or only a *piece* (half-open range) of them.

        Raises:
            BadRecord: A record cannot be read.
        """

    def prepare(self, _work: Dict[str, Any]) -> None:  # noqa: B027  optional for a format
        """Read the data of a work into memory, in place of other data; called in a thread while run() works."""

    def holds(self, _work: Dict[str, Any]) -> bool:
        """Return whether the data is in memory, so that ``read`` does not open the file."""
        return False

    def arrow(self, _work: Dict[str, Any], frame: Any) -> Any:
        """Return *frame*, just read for a work, as an Arrow table; with the file's own types, if it has any."""
        import pyarrow as pa  # noqa: PLC0415  scripts for files need no pyarrow

        return pa.Table.from_pandas(frame, preserve_index=False)


def create_reader(name: str) -> TableReader:
    """Return a new reader of the format *name*."""
    module, _, reader = TABLE_FORMATS[name].reader.partition(".")
    return cast("TableReader", getattr(importlib.import_module(f"{__package__}.{module}"), reader)())


def groups_of(work: Mapping[str, Any]) -> Tuple[str, str]:
    """Return the field of *work* that numbers its groups of rows, and the word for one of them; empty strings without groups.

    >>> groups_of({"kind": "parquet"}), groups_of({"kind": "delimited"}), groups_of({"kind": "files"})
    (('row_groups', 'row group'), ('', ''), ('', ''))
    """
    table_format = TABLE_FORMATS.get(work["kind"])
    return (table_format.groups, table_format.group) if table_format else ("", "")
