"""JSON lines: the bytes of a mini-batch as a DataFrame, with the columns and types that the whole file has."""

import json
from typing import Any, Dict, List

from .table_types import of_one_type
from .text import BadRecord, not_encoded


def read_lines(work: Dict[str, Any], data: bytes) -> Any:
    """Return the objects in *data*."""
    import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

    rows: List[Dict[str, Any]] = []
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except UnicodeDecodeError as error:
            raise BadRecord(f"{work['path']}, record {work['first'] + len(rows)}: {not_encoded('utf-8', error)}") from None
        except ValueError as error:
            raise BadRecord(f"{work['path']}, record {work['first'] + len(rows)}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise BadRecord(f"{work['path']}, record {work['first'] + len(rows)}: a {type(row).__name__}, not an object")
        rows.append(row)
    return of_one_type(pd.DataFrame(rows, columns=work["columns"]), work["types"])


def some_lines(_work: Dict[str, Any], data: bytes, start: int, stop: int) -> bytes:
    """Return the bytes of lines *start* to *stop* of *data*, blank ones left out; a broken one does not matter."""
    return b"\n".join([line for line in data.split(b"\n") if line.strip()][start:stop])
