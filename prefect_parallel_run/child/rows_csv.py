"""CSV rows: a header line, and fields that are quoted where necessary."""

import csv
import io
from typing import Any, Dict

from .rows import Encoded, RowFormat, columns_of, kind_of, to_frame, to_utf8
from .rows_text import encode_frame, with_unix_line_ends


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
        return Encoded(len(rows), _lines([names]), _lines(rows))


def _lines(rows: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)  # so that a carriage return in a field is quoted
    return to_utf8(with_unix_line_ends(text.getvalue()))


FORMAT = Csv()
