"""Text rows: str() of every element, or the columns of a DataFrame or 2-d array separated by blanks."""

from typing import Any, Dict

from .frame_text import MANY_ROWS, delimited, encode_frame
from .rows import Encoded, RowFormat, has_columns, kind_of, to_frame, to_utf8


class Text(RowFormat):
    """One line per row."""

    has_csv_options = True

    def encode(self, value: Any, with_header: bool, options: Dict[str, Any]) -> Encoded:  # noqa: D102  inherited
        if has_columns(value):
            return encode_frame(to_frame(value), {"sep": " ", **options}, with_header)
        encoding = options.get("encoding", "")
        if kind_of(value) is not None and not encoding and len(value) >= MANY_ROWS and _are_plain_floats(value):
            body = delimited(to_frame(value), " ")
            if body is not None:
                return Encoded(len(value), b"", body)
        rows = [str(element) for element in value]
        text = "\n".join(rows) + "\n" if rows else ""
        return Encoded(len(rows), b"", text.encode(encoding) if encoding else to_utf8(text))


def _are_plain_floats(value: Any) -> bool:
    """Return whether a Series or array has only floats that a DataFrame writes like str(), which excludes NaN."""
    import numpy as np  # noqa: PLC0415  imported already: the value is numpy's or pandas'

    is_plain = type(value).__name__ in ("ndarray", "Series") and isinstance(value.dtype, np.dtype)  # a masked array is not
    return is_plain and value.dtype == np.float64 and not np.isnan(value).any()


FORMAT = Text()
