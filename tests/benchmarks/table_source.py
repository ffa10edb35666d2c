"""The table that is scored, the function that scores it, and what pandas makes of it, which every engine's rows must be."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FLOATS, INTEGERS = 14, 5  #: and an id: 20 numeric columns
GROUP = 128 << 10  #: rows in a row group
AS_TEXT = {"sep": " ", "header": False, "index": False, "lineterminator": "\n"}


def score(frame):
    """The function that all engines run: column by column, so that the sums do not depend on the mini-batch."""
    import pandas as pd

    total = frame["x00"] * 0.5
    for place in range(1, 14):
        total = total + frame[f"x{place:02d}"] * (place + 0.5)
    return pd.DataFrame({"id": frame["id"], "score": total})


@dataclass(frozen=True)
class Task:
    """What an engine is to do."""

    source: Path
    size: int  #: bytes in a mini-batch
    rows: int  #: about as many
    place: Path  #: an empty folder for whatever it leaves

    @property
    def is_parquet(self) -> bool:
        return self.source.suffix == ".parquet"

    @property
    def target(self) -> Path:
        return self.place / "rows.txt"


def tables(digits: int | None) -> Iterator:
    """Yield row groups without end, the same ones every time."""
    import numpy as np
    import pyarrow as pa

    for group in range(1 << 30):
        random = np.random.default_rng(group)
        ids = np.arange(group * GROUP, (group + 1) * GROUP)
        columns = {"id": ids}
        for place in range(FLOATS):
            numbers = random.random(GROUP)
            columns[f"x{place:02d}"] = numbers if digits is None else numbers.round(digits)
        for place in range(INTEGERS):
            columns[f"n{place}"] = random.integers(0, 1_000_000, GROUP)
        columns["name"] = [f"item {number}" for number in ids.tolist()]
        columns["label"] = np.array(["red", "green", "blue", "dark blue"], object)[random.integers(0, 4, GROUP)]
        yield pa.table(columns)


def make_parquet(path: Path, megabytes: int) -> None:
    import pyarrow.parquet as pq

    groups = tables(None)
    first = next(groups)
    beside = path.with_suffix(".part")
    with beside.open("wb") as sink, pq.ParquetWriter(sink, first.schema, compression="none", use_dictionary=["label"]) as file:
        file.write_table(first, row_group_size=GROUP)
        while sink.tell() < megabytes * 1_000_000:
            file.write_table(next(groups), row_group_size=GROUP)
    beside.rename(path)


def make_csv(path: Path, megabytes: int) -> None:
    import pyarrow.csv as pcsv

    beside = path.with_suffix(".part")
    with beside.open("wb") as sink:
        for number, table in enumerate(tables(6)):
            pcsv.write_csv(table, sink, pcsv.WriteOptions(include_header=number == 0, quoting_style="none"))
            if sink.tell() >= megabytes * 1_000_000:
                break
    beside.rename(path)


def write_expected(source: Path, path: Path) -> int:
    """Write what pandas makes of the whole file and return the number of rows; leaves the source in the page cache."""
    import pandas as pd
    import pyarrow.parquet as pq

    if source.suffix == ".parquet":
        frames = (batch.to_pandas() for batch in pq.ParquetFile(source).iter_batches(GROUP))
    else:
        frames = pd.read_csv(source, chunksize=GROUP)
    rows = 0
    with path.open("w", newline="") as file:
        for frame in frames:
            score(frame).to_csv(file, **AS_TEXT)
            rows += len(frame)
    return rows


def check(task: Task, expected: Path, *, to_the_byte: bool) -> bool:
    """Return whether the engine's file has the bytes of *expected*; raise where it has not even its rows."""
    import numpy as np
    import pyarrow.csv as pcsv

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if sys.version_info >= (3, 11) else file.read()

    def rows(path: Path):
        read = pcsv.ReadOptions(column_names=["id", "score"])
        return pcsv.read_csv(path, read, pcsv.ParseOptions(delimiter=" ")).sort_by("id")

    if digest(task.target) == digest(expected):
        return True
    assert not to_the_byte, "other bytes than those of pandas"
    found, wanted = rows(task.target), rows(expected)
    assert found["id"].equals(wanted["id"])
    np.testing.assert_allclose(found["score"], wanted["score"], rtol=1e-12)  # readers of CSV differ in the last digit
    return False
