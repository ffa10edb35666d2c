"""Counts the lines of every file; an entry script for the ready-made flow."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def run(mini_batch: list[str]) -> pd.DataFrame:
    """Return a row per file: its name, its lines, its bytes."""
    contents = [Path(path).read_bytes() for path in mini_batch]
    rows = [(Path(path).name, data.count(b"\n"), len(data)) for path, data in zip(mini_batch, contents, strict=True)]
    return pd.DataFrame(rows, columns=["file", "lines", "bytes"])
