"""Reading ahead changes when data is read, never what run() gets."""

import json
import os
import time

import fsspec
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run import FileDataset, TabularDataset
from prefect_parallel_run.child import read_ahead as module
from prefect_parallel_run.child import row_groups
from prefect_parallel_run.child.read_ahead import ReadAhead
from prefect_parallel_run.child.reading import Reader
from prefect_parallel_run.child.storage import InputChanged, request, version_in

from ...slow_reader import SlowReader

ROWS = pd.DataFrame({"number": range(60), "word": [f"w{number}" for number in range(60)]})


@pytest.fixture(autouse=True)
def several_threads(monkeypatch):
    """The process may use several threads, and every mini-batch takes long enough."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(module, "_SHORTEST", 0.0)


def write(folder):
    """Write a table in each format, some in row groups, one in compressed text, one in several files; return all works."""
    ROWS.to_parquet(folder / "t.parquet", row_group_size=20)
    ROWS.to_csv(folder / "t.csv", index=False)
    ROWS.to_csv(folder / "z.csv.gz", index=False)
    ROWS.to_json(folder / "t.jsonl", orient="records", lines=True)
    ROWS.to_feather(folder / "t.arrow", chunksize=20)
    ROWS.to_orc(folder / "t.orc", index=False)
    for number in range(6):
        ROWS[number * 10 : number * 10 + 10].to_parquet(folder / f"part{number}.parquet")
        (folder / f"{number}.txt").write_text("text")
    datasets = [
        TabularDataset.from_parquet_files(folder / "t.parquet"),
        TabularDataset.from_delimited_files(folder / "t.csv"),
        TabularDataset.from_delimited_files(folder / "z.csv.gz"),
        TabularDataset.from_json_lines_files(folder / "t.jsonl"),
        TabularDataset.from_arrow_files(folder / "t.arrow"),
        TabularDataset(paths=[str(folder / "t.orc")], format="orc"),
    ]
    works = [json.loads(cut.work) for dataset in datasets for cut in dataset.as_named_input("t").cuts(150)]
    parts = [json.loads(cut.work) for cut in TabularDataset.from_parquet_files(folder / "part*.parquet").cuts(1 << 20)]
    several = [{"kind": "tables", "input": "t", "tables": parts[n : n + 2], "rows": 20} for n in range(0, 6, 2)]
    files = [json.loads(cut.work) for cut in FileDataset.from_files(folder / "*.txt").as_named_input("t").cuts(2)]
    return [*works, *several, *files]


@pytest.fixture(scope="module")
def works(tmp_path_factory):
    return write(tmp_path_factory.mktemp("in"))


def equal(found, expected):
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected)
    else:
        assert found == expected


@given(st.data())
def test_every_read_returns_what_a_reader_returns(works, data):
    """For any order of mini-batches, pieces of them, and announced mini-batches that do not come."""
    numbers = st.integers(0, len(works) - 1)
    messages = st.one_of(st.none(), st.just("shutdown"), st.just(["sleep", 1.0]), numbers.map(lambda n: [n, 1, works[n]]))
    announced = None
    reader = ReadAhead(Reader(), lambda: announced)
    announced = data.draw(messages)
    for _ in range(data.draw(st.integers(1, 8))):
        as_announced = isinstance(announced, list) and announced[0] != "sleep" and data.draw(st.booleans())
        number = announced[0] if as_announced else data.draw(numbers)
        announced = data.draw(messages)
        piece = data.draw(st.sampled_from([None, [0, 1], [1, 2]]))
        equal(reader.read(works[number], piece), Reader().read(works[number], piece))


@pytest.fixture
def tables(tmp_path):
    ROWS.to_parquet(tmp_path / "t.parquet", row_group_size=20)
    return [json.loads(cut.work) for cut in TabularDataset.from_parquet_files(tmp_path / "t.parquet").cuts(1)]


def test_the_data_of_the_announced_mini_batch_is_in_memory(tables):
    """Reading it does not decode again."""
    reader = Reader()
    ahead = ReadAhead(reader, lambda: [1, 1, tables[-1]])
    ahead.read(tables[0])
    ahead._wait()
    assert reader._reader_of("parquet").holds(tables[-1])


@pytest.mark.parametrize(("threads", "shortest"), [("1", 0.0), ("2", 1000.0)])
def test_nothing_is_prepared_where_that_does_not_pay(monkeypatch, tables, threads, shortest):
    """Without a core to spare, a local table; and mini-batches that take no time."""
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr(module, "_SHORTEST", shortest)
    ahead = ReadAhead(Reader(), lambda: [1, 1, tables[1]])
    ahead.read(tables[0])
    assert ahead._preparing is None


def test_a_memory_limit_leaves_the_requests_to_the_kernel(works, monkeypatch):
    """They need no memory of the process; tables are not prepared."""
    requested = []
    monkeypatch.setattr(module, "request", lambda *arguments: requested.append(arguments))
    files = works[-1]
    for work in (files, works[0]):
        ahead = ReadAhead(Reader(), lambda work=work: [1, 1, work], uses_memory=False)
        ahead.read(work)
        assert ahead._preparing is None
    assert requested == [(files["root"] + name, 0, 4) for name in files["names"]]


def test_groups_after_large_ones_are_not_prepared(monkeypatch, tables):
    """Both would be in memory; they are read when their mini-batch begins."""
    monkeypatch.setattr(row_groups, "_LARGEST_AHEAD", 1)
    reader = Reader()
    ahead = ReadAhead(reader, lambda: [1, 1, tables[-1]])
    ahead.read(tables[0])
    ahead._wait()
    assert not reader._reader_of("parquet").holds(tables[-1])
    equal(ahead.read(tables[-1]), Reader().read(tables[-1]))


def test_an_object_that_changes_after_it_was_prepared_counts_as_planned(tables, tmp_path):
    """Its rows are complete: the version was checked after they were read."""
    url = f"file://{tmp_path}/t.parquet"  # a store to the process
    version = version_in(fsspec.filesystem("file").info(url))
    works = [{**work, "path": url, "version": version} for work in tables]
    ahead = ReadAhead(Reader(), lambda: [1, 1, works[-1]])
    ahead.read(works[0])
    ahead._wait()
    ROWS[::-1].to_parquet(tmp_path / "t.parquet", row_group_size=20)
    equal(ahead.read(works[-1]).iloc[-1:].reset_index(drop=True), ROWS[-1:].reset_index(drop=True))
    with pytest.raises(InputChanged):
        Reader().read(works[-1])


def test_a_file_that_changes_after_it_was_prepared_is_refused(tables, tmp_path):
    """Its old rows must not count."""
    ahead = ReadAhead(Reader(), lambda: [1, 1, tables[1]])
    ahead.read(tables[0])
    ahead._wait()
    ROWS[::-1].to_parquet(tmp_path / "t.parquet", row_group_size=20)
    with pytest.raises(InputChanged):
        ahead.read(tables[1])


def test_an_error_while_preparing_is_no_error_of_the_mini_batch(tables, tmp_path):
    """The file is away only for that moment."""
    reader = SlowReader()
    ahead = ReadAhead(reader, lambda: [1, 1, tables[-1]])
    path, away = tmp_path / "t.parquet", tmp_path / "away"
    ahead.read(tables[0])
    reader._table_reader = None  # it holds the file open
    reader.entered.result(60)
    path.rename(away)
    reader.may_end.set_result(None)
    assert isinstance(ahead._preparing.exception(60), FileNotFoundError)
    assert not reader.has_ended
    away.rename(path)
    equal(ahead.read(tables[-1]), Reader().read(tables[-1]))


def test_requested_bytes_come_into_the_page_cache(tmp_path):
    """The kernel reads them in the background."""
    path = tmp_path / "file"
    path.write_bytes(bytes(3 << 20))
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

        def is_cached(offset):
            try:
                return os.preadv(file.fileno(), [bytearray(1)], offset, os.RWF_NOWAIT) == 1
            except BlockingIOError:
                return False

        if is_cached(0):
            pytest.skip("this file system keeps its files in memory")
        request(str(path), 0, 3 << 20)
        deadline = time.monotonic() + 60
        while not is_cached((3 << 20) - 1):
            assert time.monotonic() < deadline
    request(str(tmp_path / "missing"), 0, 1)


def test_requests_end_with_the_file(tmp_path):
    """Damaged metadata may contain any offsets."""
    path = tmp_path / "file"
    path.write_bytes(b"text")
    request(str(path), -(1 << 60), 1 << 60)
    request(str(tmp_path), 0, 1)
