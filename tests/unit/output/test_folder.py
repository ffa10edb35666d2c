"""A result that is a folder of parts: complete or absent, with the rows, the order and the schema of one file."""

import hashlib
import os
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import orc

from prefect_parallel_run import OutputError, RowsDifferError
from prefect_parallel_run.child.rows import ROW_FORMATS
from prefect_parallel_run.output import part_writer
from prefect_parallel_run.output.folder import Publication, Rows, assembled_sha256
from prefect_parallel_run.output.part_writer import write_here
from prefect_parallel_run.storage.manifest import combined_sha256
from prefect_parallel_run.storage.result_folder import changes

from .test_publication import Parts

READERS = {"parquet": pq.read_table, "orc": lambda path: orc.ORCFile(path).read()}
SUFFIX = {"text": ".txt", "csv": ".csv", "jsonl": ".jsonl", "parquet": ".parquet", "orc": ".orc"}


def never():
    pass


def publication(parts, target, most_bytes, write_parts=write_here, check_cancelled=never):
    places = [parts.ranges[number] for number in sorted(parts.ranges)]
    rows = Rows(
        ledger=SimpleNamespace(places=lambda: iter(places)),
        source=parts.folder,
        format=parts.row_format,
        options=parts.options,
        most_bytes=most_bytes,
    )
    return Publication(
        rows=rows,
        count=sum(place.rows for place in places),
        path=target,
        location=str(target),
        token="run",
        write_parts=write_parts,
        check_cancelled=check_cancelled,
    )


def filled(folder, row_format, count=10):
    """Part files with *count* mini-batches of ten rows."""
    folder.mkdir(exist_ok=True)
    parts = Parts(folder, row_format, header=True)
    for number in range(count):
        frame = pd.DataFrame({"n": range(10 * number, 10 * number + 10), "t": [f"é {number}"] * 10})
        parts.add(number, frame, part=f"p{number % 3}")
    return parts


def content(folder):
    return {entry.name: entry.read_bytes() for entry in sorted(folder.iterdir())}


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_parts_have_the_rows_of_one_file_in_order(tmp_path, row_format):
    """And the manifest has their sizes and checksums."""
    parts = filled(tmp_path / "parts", row_format)
    single, target = tmp_path / "single", tmp_path / "out" / "result"
    parts.publish(single)
    published = publication(parts, target, 2 * parts.ranges[5].length).publish()
    names = sorted(os.listdir(target))
    assert names == [f"part-{number:05d}{SUFFIX[row_format]}" for number in range(len(names))]
    assert len(names) > 2
    assert [(part.name, part.rows, part.bytes) for part in published] == [
        (name, part.rows, (target / name).stat().st_size) for name, part in zip(names, published, strict=True)
    ]
    assert sum(part.rows for part in published) == 100
    assert list(changes(str(target), published)) == []
    if row_format in READERS:
        tables = [READERS[row_format](target / name) for name in names]
        whole = READERS[row_format](single)
        assert {table.schema for table in tables} == {whole.schema}
        assert pa.concat_tables(tables) == whole
    else:
        data = list(content(target).values())
        header = single.read_bytes()[: parts.ranges[0].header]
        assert all(part.startswith(header) for part in data)
        assert header + b"".join(part[len(header) :] for part in data) == single.read_bytes()
        assert all(len(part) <= 2 * parts.ranges[5].length for part in data)
    assert os.listdir(target.parent) == ["result"], "nothing else is left"


def test_checksum_of_the_folder_is_what_sha256sum_gives(tmp_path):
    """``sha256sum part-* | sha256sum``."""
    parts = filled(tmp_path / "parts", "csv")
    published = publication(parts, tmp_path / "r", 300).publish()
    lines = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in content(tmp_path / "r").items())
    assert combined_sha256(published) == hashlib.sha256(lines.encode()).hexdigest()
    assert assembled_sha256(publication(parts, tmp_path / "r", 300).rows) == [part.sha256 for part in published]


VALUES = st.one_of(st.none(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False, width=32))


@given(columns=st.lists(st.lists(VALUES, min_size=1, max_size=3), min_size=1, max_size=6))
def test_parts_have_the_schema_that_one_file_would_have(columns, tmp_path_factory):
    """Also where a mini-batch has only nulls, or integers beside the floats of others; else both are the same error."""
    folder = tmp_path_factory.mktemp("schema")
    parts = Parts(folder, "parquet")
    for number, values in enumerate(columns):
        parts.add(number, pd.DataFrame({"v": values}))
    errors = []
    for publish in (lambda: parts.publish(folder / "single"), publication(parts, folder / "result", 1).publish):
        try:
            publish()
        except RowsDifferError as error:
            errors.append((error.reason, error.mini_batch, error.other))
    if errors:
        assert errors == [errors[0]] * 2
        return
    tables = [pq.read_table(path) for path in sorted((folder / "result").iterdir())]
    whole = pq.read_table(folder / "single")
    assert len(tables) == len(columns)
    assert {table.schema for table in tables} == {whole.schema}
    assert pa.concat_tables(tables) == whole


@pytest.mark.parametrize("before", ["folder", "file", "other"])
@pytest.mark.parametrize("can_exchange", [True, False])
def test_an_existing_result_is_replaced_at_the_end(tmp_path, before, can_exchange, monkeypatch):
    """A folder with more parts, or a file of an earlier configuration; a folder with other files is refused and stays."""
    if not can_exchange:
        monkeypatch.setattr("prefect_parallel_run._atomic._exchange", lambda *_: False)
    parts, target = filled(tmp_path / "parts", "csv"), tmp_path / "r"
    if before == "file":
        parts.publish(target)
    else:
        publication(parts, target, 1).publish()
    if before == "other":
        (target / "notes.txt").write_text("mine")
        with pytest.raises(OutputError, match=r"notes.txt, which is not part of a result"):
            publication(parts, target, 300).publish()
        assert (target / "notes.txt").read_text() == "mine"
        return
    old = content(target) if before == "folder" else target.read_bytes()

    def write_and_look(tasks, check_cancelled):
        yield from write_here(tasks, check_cancelled)
        assert old == (content(target) if before == "folder" else target.read_bytes())

    published = publication(parts, target, 300, write_and_look).publish()
    assert list(content(target)) == [part.name for part in published]
    assert sorted(os.listdir(tmp_path)) == ["parts", "r"]


def test_a_file_replaces_a_folder_of_parts(tmp_path):
    """When the configuration no longer limits the size."""
    parts, target = filled(tmp_path / "parts", "csv"), tmp_path / "r"
    publication(parts, target, 300).publish()
    parts.publish(target)
    assert target.is_file()
    assert sorted(os.listdir(tmp_path)) == ["parts", "r"]


class StopError(Exception):
    pass


@pytest.mark.parametrize("row_format", ["csv", "parquet"])
@pytest.mark.parametrize("fault", ["stop", "altered", "lost part", "lost rows", "disk"])
def test_a_fault_leaves_the_earlier_result(tmp_path, row_format, fault, monkeypatch):
    """And nothing beside it: cancelled between parts, altered rows, a part that is missing, a disk that is full."""
    parts, target = filled(tmp_path / "parts", row_format), tmp_path / "r"
    publication(parts, target, 1_000).publish()
    before = content(target)
    more = {"write_parts": write_here}
    if fault == "stop":
        calls = iter(range(6))

        def check_cancelled():
            if next(calls, None) is None:
                raise StopError

        more["check_cancelled"] = check_cancelled
    elif fault == "altered":
        path = parts.folder / parts.ranges[7].part
        data = bytearray(path.read_bytes())
        data[parts.ranges[7].offset + parts.ranges[7].length - 2] ^= 1
        path.write_bytes(data)
    elif fault == "lost part":
        more["write_parts"] = lambda tasks, check: list(write_here(tasks, check))[:-1]
    elif fault == "lost rows":
        more["write_parts"] = lambda tasks, check: [
            part._replace(part=part.part._replace(bytes=1)) for part in write_here(tasks, check)
        ]
    else:
        monkeypatch.setattr(os, "fsync", full_disk_after(3))
    expected = StopError if fault == "stop" else OutputError
    with pytest.raises(expected) as caught:
        publication(parts, target, 1, **more).publish()
    assert fault == "stop" or caught.value.path == str(target)
    assert content(target) == before
    assert sorted(os.listdir(tmp_path)) == ["parts", "r"]


def full_disk_after(times):
    """Return an fsync that fails after that many calls: a file system may report a full disk that late."""
    remaining, fsync = iter(range(times)), os.fsync

    def failing(descriptor):
        if next(remaining, None) is None:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    return failing


def test_a_leftover_of_a_killed_process_is_deleted(tmp_path):
    """Large files must not accumulate."""
    leftover = tmp_path / ".r.run.tmp"
    leftover.mkdir()
    (leftover / "0-abc.tmp").write_text("half")
    publication(filled(tmp_path / "parts", "text"), tmp_path / "r", 300).publish()
    assert sorted(os.listdir(tmp_path)) == ["parts", "r"]


def test_a_part_that_is_written_twice_is_published_once(tmp_path):
    """An attempt on a node that was lost may end later, or never: its file is not published."""
    parts, target = filled(tmp_path / "parts", "csv"), tmp_path / "r"

    def write_twice(tasks, check_cancelled):
        for task in tasks:
            part_writer.write_part(task, check_cancelled)
            yield part_writer.write_part(task, check_cancelled)

    published = publication(parts, target, 300, write_twice).publish()
    assert list(content(target)) == [part.name for part in published]


def test_columns_in_another_order_follow_the_first_header(tmp_path):
    """Also where the first header is in another part."""
    parts = Parts(tmp_path, "csv")
    parts.add(0, pd.DataFrame({"a": [1], "b": [2]}))
    parts.add(1, pd.DataFrame({"b": [4], "a": [3]}))
    publication(parts, tmp_path / "r", 1).publish()
    assert list(content(tmp_path / "r").values()) == [b"a,b\n1,2\n", b"a,b\n3,4\n"]
    parts.add(2, pd.DataFrame({"a": [1], "c": [2]}))
    with pytest.raises(RowsDifferError) as caught:
        publication(parts, tmp_path / "r", 1).publish()
    assert (caught.value.path, caught.value.mini_batch, caught.value.other) == (str(tmp_path / "r"), 2, 0)
