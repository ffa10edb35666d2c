"""One result file from the committed rows: complete or absent."""

import json
import os
import random
from zlib import crc32

import pandas as pd
import pyarrow as pa
import pytest

from prefect_parallel_run.child.rows import ROW_FORMATS, encode
from prefect_parallel_run.child.runner import Part
from prefect_parallel_run.errors import OutputError
from prefect_parallel_run.output import parts as module
from prefect_parallel_run.output.reduction import publish
from prefect_parallel_run.runs.ledger import Place
from prefect_parallel_run.storage.objects import file_sha256

TEXT = pa.array(pd.Series(["x"])).type  #: large_string, or string before pandas 3


class Parts:
    """Writes results to part files, as children do."""

    def __init__(self, folder, row_format, header=False):
        self.folder, self.row_format, self.header = folder, row_format, header
        self.parts, self.ranges, self.options = {}, {}, {}

    def add(self, mini_batch, value, part="p", inputs=None):
        file = self.parts.setdefault(part, Part(str(self.folder / f"{part}.part")))
        rows, header, body = encode(value, self.row_format, self.header, self.options, inputs)
        offset = file.append(header, body)
        self.ranges[mini_batch] = Place(
            mini_batch, f"{part}.part", offset, len(header), len(header) + len(body), crc32(header + body), rows
        )

    def __del__(self):
        """Close the part files, as the end of a process does."""
        for part in self.parts.values():
            if part._descriptor >= 0:
                os.close(part._descriptor)

    def publish(self, target):
        places = (self.ranges[number] for number in sorted(self.ranges))
        with module.Parts(self.folder) as parts:
            return publish(places, parts, target, self.row_format, "t", self.options)


def test_rows_are_in_mini_batch_order(tmp_path):
    """The order in which the processes finished does not matter."""
    parts = Parts(tmp_path, "text")
    order = list(range(500))
    random.Random(1).shuffle(order)
    for number in order:
        parts.add(number, [f"{number} é"], part=f"p{number % 7}")
    published = parts.publish(tmp_path / "out" / "result.txt")
    text = (tmp_path / "out" / "result.txt").read_text()
    assert text.splitlines() == [f"{number} é" for number in range(500)]
    assert published == (len(text.encode()), file_sha256(tmp_path / "out" / "result.txt"), 500)
    assert os.listdir(tmp_path / "out") == ["result.txt"]


def test_there_may_be_more_parts_than_open_files(tmp_path, monkeypatch):
    """A run on a large cluster writes thousands."""
    monkeypatch.setattr(module, "_MAX_OPEN", 3)
    parts = Parts(tmp_path, "text")
    for number in range(40):
        parts.add(number, [number], part=f"p{number % 10}")
    parts.publish(tmp_path / "result.txt")
    assert (tmp_path / "result.txt").read_text().split() == [str(number) for number in range(40)]


def test_rows_without_a_receipt_are_left_out(tmp_path):
    """Rows of a failed attempt are never published."""
    parts = Parts(tmp_path, "text")
    parts.add(0, ["good"])
    parts.add(1, ["bad"])
    parts.add(2, ["good too"])
    del parts.ranges[1]
    parts.publish(tmp_path / "r")
    assert (tmp_path / "r").read_text() == "good\ngood too\n"


def test_header_is_written_once(tmp_path):
    """A mini-batch without rows has no header and changes nothing."""
    parts = Parts(tmp_path, "csv")
    parts.add(0, [])
    for number in range(1, 4):
        parts.add(number, pd.DataFrame({"a": [number], "b": ['x,"\n']}), part=f"p{number % 2}")
    parts.publish(tmp_path / "r.csv")
    assert (tmp_path / "r.csv").read_bytes() == b'a,b\n1,"x,""\n"\n2,"x,""\n"\n3,"x,""\n"\n'


def test_csv_error_names_the_differing_column(tmp_path):
    """And the mini-batch; nothing is published."""
    parts = Parts(tmp_path, "csv")
    parts.add(0, pd.DataFrame({"a": [1], "b": [1]}))
    parts.add(1, pd.DataFrame({"a": [1], "c": [1]}))
    with pytest.raises(OutputError, match="mini-batch 1 has column 'c' where earlier mini-batches have 'b'"):
        parts.publish(tmp_path / "r.csv")
    assert not list(tmp_path.glob("*r.csv*"))


def test_parquet_keeps_types_and_fills_columns_of_nulls(tmp_path):
    """A column of nulls gets the type of the other mini-batches."""
    parts = Parts(tmp_path, "parquet")
    parts.add(0, pd.DataFrame({"n": [1], "t": [None]}))
    parts.add(1, [])
    parts.add(2, pd.DataFrame({"n": [2], "t": ["x"]}))
    parts.add(3, pd.DataFrame({"n": [3], "t": [None]}))
    assert parts.publish(tmp_path / "r.parquet").rows == 3
    frame = pd.read_parquet(tmp_path / "r.parquet")
    assert frame["n"].tolist() == [1, 2, 3]
    assert frame["t"].isna().tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ({"a": ["x"], "b": [1]}, f"column 'a' is {TEXT} in mini-batch 1 and int64 in mini-batch 0; no type holds"),
        ({"a": [1]}, "mini-batch 1 lacks the column 'b', which mini-batch 0 has"),
        ({"a": [1], "b": [1], "c": [1]}, "mini-batch 1 has a column 'c', which mini-batch 0 lacks"),
    ],
)
def test_parquet_error_names_the_differing_column(tmp_path, frame, expected):
    """And both mini-batches."""
    parts = Parts(tmp_path, "parquet")
    parts.add(0, pd.DataFrame({"a": [1], "b": [1]}))
    parts.add(1, pd.DataFrame(frame))
    with pytest.raises(OutputError, match=expected):
        parts.publish(tmp_path / "r.parquet")


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_result_without_rows_is_an_empty_file(tmp_path, row_format):
    """An input that may be empty has an existing, empty result."""
    assert publish([], module.Parts(tmp_path), tmp_path / "r", row_format, "t").rows == 0
    assert (tmp_path / "r").exists()


@pytest.mark.parametrize("row_format", ["text", "parquet"])
def test_truncated_or_missing_part_is_an_error(tmp_path, row_format):
    """Nothing is published, and an existing result is unchanged."""
    (tmp_path / "r").write_text("before")
    parts = Parts(tmp_path, row_format)
    parts.add(0, ["x" * 100])
    parts.add(1, ["y" * 100])
    os.truncate(tmp_path / "p.part", 150)
    with pytest.raises(OutputError, match=r"p.part ends at byte 150"):
        parts.publish(tmp_path / "r")
    (tmp_path / "p.part").unlink()
    with pytest.raises(OutputError, match=r"p.part with the rows of mini-batch 0 cannot be read"):
        parts.publish(tmp_path / "r")
    assert (tmp_path / "r").read_text() == "before"
    assert not list(tmp_path.glob(".r*"))


@pytest.mark.parametrize("row_format", ROW_FORMATS)
@pytest.mark.parametrize("at", [3, -2])
def test_altered_part_is_an_error(tmp_path, row_format, at):
    """One byte is enough; nothing is published."""
    parts = Parts(tmp_path, row_format)
    for number in range(3):
        parts.add(number, pd.DataFrame({"a": ["x" * 100]}))
    data = bytearray((tmp_path / "p.part").read_bytes())
    data[at] ^= 1
    (tmp_path / "p.part").write_bytes(data)
    with pytest.raises(OutputError, match=rf"p.part .* the rows of mini-batch {0 if at > 0 else 2}"):
        parts.publish(tmp_path / "r")
    assert not list(tmp_path.glob("*r"))


def test_error_names_an_unwritable_output(tmp_path):
    """A file exists in place of the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/out/r"):
        publish([], module.Parts(tmp_path), tmp_path / "file" / "out" / "r", "text", "t")


def test_json_lines_have_one_object_per_line(tmp_path):
    """Even with line separators in a value."""
    parts = Parts(tmp_path, "jsonl")
    for number in range(10):
        parts.add(number, [{"n": number, "t": "ä\n\u2028"}])
    parts.publish(tmp_path / "r.jsonl")
    lines = (tmp_path / "r.jsonl").read_text().split("\n")[:-1]
    assert [json.loads(line)["n"] for line in lines] == list(range(10))
