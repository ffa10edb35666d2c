"""Reads JSON lines: the bytes of a mini-batch as a DataFrame, with the columns and types of the whole file."""

import json
from typing import Any, Dict, List

import pandas as pd

from .text import DTYPES, BadRecord, TextReader, location, not_encoded


class JsonLinesReader(TextReader):
    """Reads one object per line."""

    def frame(self, work: Dict[str, Any], data: bytes) -> Any:
        """Return the objects."""
        rows: List[Dict[str, Any]] = []
        for line in data.split(b"\n"):
            if not line.strip():
                continue
            try:
                rows.append(record(line))
            except ValueError as error:
                raise BadRecord(f"{work['path']}, record {work['first'] + len(rows)}: {error}") from None
        missing, types = float("nan"), dict(zip(work["columns"], work["types"]))
        try:
            columns = {name: _column([row.get(name, missing) for row in rows], kind) for name, kind in types.items()}
        except (ValueError, TypeError, OverflowError) as error:
            raise BadRecord(f"{location(work)}: {type(error).__name__}: {error}") from None
        return pd.DataFrame(columns, columns=work["columns"], index=pd.RangeIndex(len(rows)))

    def part(self, _work: Dict[str, Any], data: bytes, start: int, stop: int) -> bytes:
        """Return lines."""
        return b"\n".join([line for line in data.split(b"\n") if line.strip()][start:stop])


def record(line: bytes) -> Dict[str, Any]:
    """Return the object in a line.

    Raises:
        ValueError: The line is not a JSON object; the message says why.
    """
    try:
        row = json.loads(line.decode("utf-8"))
        if b"\\u" in line:
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(not_encoded("utf-8", error)) from None
    except UnicodeEncodeError as error:
        surrogate = f"\\u{ord(error.object[error.start]):04x}"
        raise ValueError(f"{surrogate} is half a surrogate pair, not a character; write both halves, or \\ufffd") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("is nested too deeply to be read") from None
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__}, not an object")  # noqa: TRY004  one error for all broken records
    return row


def _column(values: List[Any], kind: str) -> Any:
    """Return Python values as a column of this kind, without inference: every mini-batch gets the same type."""
    return pd.Series(values, dtype=pd.Series([""]).dtype if kind == "text" else DTYPES[kind])
