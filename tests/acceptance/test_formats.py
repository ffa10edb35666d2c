"""The same rows in every format, dialect, encoding and compression give the same result."""

import bz2
import gzip
import lzma
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.orc
import pytest

from prefect_parallel_run import TabularDataset

pytestmark = pytest.mark.usefixtures("shared_cluster")

ROWS = 600
COMPRESS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


def frame():
    """Whole numbers, a gap that makes fractions of them, truth values, texts that are hostile to every delimiter."""
    texts = ["plain", 'a "quote"', "new\nline", "comma, semicolon; tab\t", "ünï", "back\\slash", " lead", "007", "it's"]
    return pd.DataFrame(
        {
            "n": range(ROWS),
            "gap": [None if n == 444 else n for n in range(ROWS)],
            "share": [n / 8 for n in range(ROWS)],
            "ok": [n % 3 == 0 for n in range(ROWS)],
            "text": [f"{texts[n % len(texts)]} {n}" for n in range(ROWS)],
        }
    )


def whole_numbers(table):
    """The same with the gap as a null among whole numbers, as files with types hold it."""
    return table.assign(gap=table["gap"].astype("Int64"))


def csv(table, folder, encoding="utf-8", compression=None, **dialect):
    text = table.to_csv(index=False, **dialect).encode(encoding)
    path = folder / f"t.csv{'.' + compression if compression else ''}"
    path.write_bytes(COMPRESS[compression](text) if compression else text)
    names = {
        "sep": "delimiter",
        "quotechar": "quote",
        "escapechar": "escape",
        "doublequote": "double_quote",
        "header": "header",
    }
    given = {names.get(name, name): value for name, value in dialect.items()}
    return TabularDataset.from_delimited_files(path, encoding=encoding, **given)


def jsonl(table, folder, encoding="utf-8", compression=None):
    text = table.to_json(orient="records", lines=True, force_ascii=False).encode(encoding)
    path = folder / f"t.jsonl{'.' + compression if compression else ''}"
    path.write_bytes(COMPRESS[compression](text) if compression else text)
    return TabularDataset.from_json_lines_files(path, encoding=encoding)


def parquet(table, folder):
    whole_numbers(table).to_parquet(folder / "t.parquet", row_group_size=100)
    return TabularDataset.from_parquet_files(folder / "t.parquet")


def feather(table, folder):
    whole_numbers(table).to_feather(folder / "t.feather", chunksize=100, compression="zstd")
    return TabularDataset.from_arrow_files(folder / "t.feather")


def orc(table, folder):
    pa.orc.write_table(pa.Table.from_pandas(whole_numbers(table)), folder / "t.orc", stripe_size=1 << 10, batch_size=100)
    return TabularDataset.from_orc_files(folder / "t.orc")


WAYS = {
    "parquet": (parquet, {}),
    "feather": (feather, {}),
    "orc": (orc, {}),
    "csv": (csv, {}),
    "tsv, latin-1, single quotes": (csv, {"sep": "\t", "quotechar": "'", "encoding": "latin-1"}),
    "semicolons, decimal comma, escapes": (
        csv,
        {"sep": ";", "decimal": ",", "escapechar": "\\", "doublequote": False},
    ),
    "csv, utf-16": (csv, {"encoding": "utf-16"}),
    "csv.gz": (csv, {"compression": "gz"}),
    "csv.xz": (csv, {"compression": "xz"}),
    "csv.zst, cp1252": (csv, {"compression": "zst", "encoding": "cp1252"}),
    "jsonl": (jsonl, {}),
    "jsonl.bz2, utf-16": (jsonl, {"compression": "bz2", "encoding": "utf-16"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_same_rows_in_any_form_give_the_same_result(workshop, way):
    """Cut into many mini-batches, whose types are those of the whole file."""
    write, options = WAYS[way]
    table = frame()
    inputs = write(table, workshop.folder, **options)
    fields = {"append_row_file_name": "rows.parquet", "mini_batch_size": "2KB"}
    result = workshop.step("echo.py", inputs=inputs, **fields)()
    assert result.mini_batches_total > 5
    assert (result.rows, result.items_failed) == (ROWS, 0)
    found = pd.read_parquet(Path(result.output_file))
    pd.testing.assert_frame_equal(found, table)
