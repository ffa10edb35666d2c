"""JSON lines: one object per row."""

import json
import math
from typing import Any, Dict, List

from .rows import Encoded, RowFormat, has_columns, kind_of, objects_of, to_frame, to_utf8


class JsonLines(RowFormat):
    """Objects with the columns as keys; an element without columns is an object with one key."""

    suffix = ".jsonl"
    keeps_elements = True
    table_format = "json_lines"

    def encode(self, value: Any, with_header: bool, options: Dict[str, Any]) -> Encoded:  # noqa: ARG002, D102  inherited
        if has_columns(value) or kind_of(value) == "series":
            frame = to_frame(value)
            names = _unique([str(name) for name in frame.columns])
            columns = [frame.iloc[:, index].tolist() for index in range(len(names))]
            rows = [dict(zip(names, row)) for row in zip(*columns)]
        else:
            rows = objects_of(value)
        dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain).encode
        lines = [dump(without_nan(row)) for row in rows]
        return Encoded(len(lines), b"", to_utf8("\n".join(lines) + "\n") if lines else b"")


def _unique(names: List[str]) -> List[str]:
    if len(set(names)) < len(names):
        duplicates = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"columns of the same name would overwrite each other: {', '.join(duplicates)}")
    return names


def without_nan(value: Any) -> Any:
    """Return *value* with the values that JSON lacks (NaN, infinity, NaT, NA) as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(inner) for inner in value]
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    return value


def plain(value: Any) -> Any:
    """Convert a value for JSON: numpy's to Python's, dates to ISO 8601, other types to a string."""
    if type(value).__name__ == "datetime64":
        return None if str(value) == "NaT" else str(value)
    if hasattr(value, "tolist"):
        return without_nan(value.tolist())
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)


FORMAT = JsonLines()
