"""CSV rows: a header line, and fields that are quoted where necessary."""

from typing import Any, Dict

from .rows import Encoded, RowFormat, columns_of, kind_of, to_frame
from .rows_text import encode_frame, lines


class Csv(RowFormat):
    """Delimited text with column names; pandas reads it without further options."""

    extension = ".csv"
    has_csv_options = True
    always_has_header = True
    table_format = "delimited"

    def encode(self, value: Any, with_header: bool, options: Dict[str, Any]) -> Encoded:  # noqa: ARG002, D102  inherited
        if kind_of(value) is not None or (options and len(value)):
            return encode_frame(to_frame(value), {"sep": ",", **options}, with_header=True)
        if not len(value):
            return Encoded(0, b"", b"")
        names, rows = columns_of(value)
        return Encoded(len(rows), lines([names], ","), lines(rows, ","))


FORMAT = Csv()
