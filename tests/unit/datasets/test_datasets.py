"""Datasets expand paths to items, and divide them into mini-batches."""

import json
import os

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run import FileDataset, TabularDataset
from prefect_parallel_run.child.failure import describe
from prefect_parallel_run.child.reading import BadRecord, Reader
from prefect_parallel_run.child.storage import InputChanged
from prefect_parallel_run.datasets.files import PartitionFormat, _shared_root
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.folders import FileBlock, ListedFile


def works(dataset, size):
    return [json.loads(cut.work) for cut in dataset.as_named_input("x").cuts(size)]


def paths_of(dataset, size=3):
    return [work["root"] + name for work in works(dataset, size) for name in work["names"]]


def frames_of(dataset, size):
    reader = Reader()
    return [reader.read(work) for work in works(dataset, size)]


@pytest.fixture
def tree(tmp_path):
    """Names whose order as paths differs from their order folder by folder."""
    for name in ("b.txt", "a/z.txt", "a-x.txt", "a/b/c.txt", "a/.hidden", ".git/config", "a/_parallel_run/r/plan", "Ü.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def test_files_come_in_the_order_of_their_paths(tree):
    """Hidden files and run directories in a folder are not input."""
    expected = sorted(str(tree / name) for name in ("b.txt", "a/z.txt", "a-x.txt", "a/b/c.txt", "Ü.txt"))
    assert paths_of(FileDataset.from_files(tree)) == expected


def test_a_file_that_two_patterns_match_is_one_item(tree):
    """Otherwise the result would contain its row twice."""
    dataset = FileDataset.from_files([tree / "*.txt", tree / "b.txt", tree / "a", str(tree / "**" / "*.txt")])
    found = paths_of(dataset)
    assert found == sorted(set(found))
    assert len(found) == 5


def test_file_urls_and_relative_paths_become_absolute(tree, monkeypatch):
    """The child has another working directory."""
    monkeypatch.chdir(tree)
    assert paths_of(FileDataset.from_files("b.txt")) == [str(tree / "b.txt")]
    assert paths_of(FileDataset.from_files(f"file://{tree}/%C3%9C.txt")) == [str(tree / "Ü.txt")]


def test_a_file_name_that_is_not_utf8_is_preserved(tmp_path):
    """File systems store bytes."""
    path = os.fsencode(tmp_path) + b"/\xff\xfe.bin"
    with open(path, "w") as file:
        file.write("x")
    (work,) = works(FileDataset.from_files(tmp_path), 10)
    (found,) = Reader().read(work)
    assert os.fsencode(found) == path


@pytest.mark.parametrize("path", ["none.txt", "none/*.txt", "s3://bucket/x", ""])
def test_listing_errors_name_the_path(tmp_path, monkeypatch, path):
    """A missing path, and an unknown store; planning reports a pattern without match as empty."""
    monkeypatch.chdir(tmp_path)
    if "*" in path:
        assert paths_of(FileDataset.from_files(path)) == []
        return
    with pytest.raises(InputError) as caught:
        paths_of(FileDataset.from_files(path))
    assert path.rsplit("/", 1)[-1] in str(caught.value)


@given(count=st.integers(0, 40), size=st.integers(1, 50))
def test_every_file_is_in_exactly_one_mini_batch(count, size, tmp_path_factory):
    """They are in order, and none is larger than mini_batch_size."""
    folder = tmp_path_factory.mktemp("files")
    for number in range(count):
        (folder / f"{number:03d}").touch()
    found = [work["names"] for work in works(FileDataset.from_files(folder), size)]
    assert [name for names in found for name in names] == [f"{number:03d}" for number in range(count)]
    assert all(len(names) == size for names in found[:-1])
    assert all(0 < len(names) <= size for names in found)


class Blocks:
    """A listing in blocks of *size* files."""

    def __init__(self, files, size):
        self._files, self._size = files, size

    def blocks(self):
        for start in range(0, len(self._files), self._size):
            yield FileBlock.of_files(self._files[start : start + self._size])


VERSIONS = st.one_of(st.lists(st.integers()), st.lists(st.text()))  # of local files, or of objects


@given(
    st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=())), min_size=1),
    VERSIONS,
    st.integers(1, 5),
    st.integers(1, 5),
    st.booleans(),
)
def test_the_work_is_the_compact_json_of_its_files(names, versions, size, block, is_partitioned):
    """Its bytes are part of the plan's hash and do not depend on the blocks of the listing."""
    files = [ListedFile(f"/top/{name}", 7, version) for name, version in zip(sorted(names), versions, strict=False)]
    dataset = FileDataset(paths=["/top"], name="x", partition_format="{k}" if is_partitioned else None)
    if is_partitioned:
        files = [file for file in files if PartitionFormat("{k}").values(file.path)]
        cuts = dataset.partition_cuts(["k"], None, Blocks(files, block))
        groups = {}
        for file in files:
            key = PartitionFormat("{k}").values(file.path)["k"]
            groups.setdefault(key, []).append(file)
        expected = [(group, {"partition_key_value": {"k": key}}) for key, group in groups.items()]
    else:
        cuts = dataset.cuts(size, Blocks(files, block))
        expected = [(files[start : start + size], {}) for start in range(0, len(files), size)]
    for cut, (group, keys) in zip(cuts, expected, strict=True):
        root = _shared_root(group[0].path, group[-1].path)
        columns = {
            "names": [file.path[len(root) :] for file in group],
            "sizes": [file.size for file in group],
            "versions": [file.version for file in group],
        }
        work = {"input": "x", "kind": "files", "root": root, **columns, **keys}
        assert cut == (len(group), 7 * len(group), json.dumps(work, separators=(",", ":")))


def test_a_changed_file_is_detected_with_the_reason(files):
    """Its size or time changed, or it was deleted."""
    (work,) = works(FileDataset.from_files(files / "f001.txt"), 1)
    Reader().read(work)
    os.utime(files / "f001.txt", (1, 1))
    with pytest.raises(InputChanged, match=r"f001.txt has been modified"):
        Reader().read(work)
    (files / "f001.txt").write_text("longer")
    with pytest.raises(InputChanged, match=r"f001.txt has 6 bytes, but had 2 when"):
        Reader().read(work)
    (files / "f001.txt").unlink()
    with pytest.raises(InputChanged, match=r"f001.txt has been removed"):
        Reader().read(work)


@given(
    rows=st.integers(0, 300),
    group=st.integers(1, 120),
    size=st.integers(1, 5000),
)
def test_parquet_is_divided_at_and_inside_row_groups(rows, group, size, tmp_path_factory):
    """Every row occurs once and in order; no frame is empty."""
    path = tmp_path_factory.mktemp("p") / "t.parquet"
    frame = pd.DataFrame({"n": range(rows), "text": [f"row {number}" for number in range(rows)]})
    frame.to_parquet(path, row_group_size=group)
    frames = frames_of(TabularDataset.from_parquet_files(path), size)
    assert all(len(one) and one.index[0] == 0 for one in frames)
    assert [n for one in frames for n in one["n"]] == list(range(rows))
    if frames:
        pd.testing.assert_frame_equal(pd.concat(frames, ignore_index=True), frame)


def test_small_row_groups_are_combined_up_to_the_size(tmp_path):
    """A file of many tiny row groups must not become as many mini-batches."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"n": range(1000)}), path, row_group_size=10)
    assert len(works(TabularDataset.from_parquet_files(path), 1 << 20)) == 1


def test_a_row_group_is_decoded_once_for_all_its_mini_batches(tmp_path, monkeypatch):
    """This makes small mini-batches of large row groups cheap."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"n": range(10_000)}), path)
    decoded = []
    original = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_groups",
        lambda self, groups, **options: decoded.append(groups) or original(self, groups, **options),
    )
    assert len(frames_of(TabularDataset.from_parquet_files(path), 8_000)) > 5
    assert decoded == [[0]]


@given(
    records=st.lists(
        st.dictionaries(st.sampled_from("abc"), st.one_of(st.integers(), st.text(max_size=5), st.none())), max_size=30
    ),
    size=st.integers(1, 300),
    blank=st.sampled_from(["", "\n", "  \n", "\r\n"]),
)
def test_json_lines_are_divided_at_line_ends(records, size, blank, tmp_path_factory):
    """Blank lines are not records; columns are in order of first appearance."""
    path = tmp_path_factory.mktemp("j") / "t.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" + blank for record in records))
    dataset = TabularDataset.from_json_lines_files(path).as_named_input("x")
    assert sum(cut.items for cut in dataset.cuts(size)) == len(records)
    frames = frames_of(dataset, size)
    assert sum(len(one) for one in frames) == len(records)


@pytest.mark.parametrize("large", [2**63, -(2**63) - 1, 10**30])
@pytest.mark.parametrize("others", [[1, 2], [1, None], [1, 0.5]])
def test_numbers_beyond_64_bits_keep_every_digit(tmp_path, large, others):
    """The column contains Python integers in all mini-batches."""
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"a": value}) + "\n" for value in [*others, large]))
    frames = frames_of(TabularDataset.from_json_lines_files(path), 1)
    assert [frame["a"].dtype for frame in frames] == ["object"] * 3
    assert frames[2]["a"][0] == large


@pytest.mark.parametrize(("line", "words"), [("{oops", "record 3: not JSON"), ("[1]", "record 3: a list, not an object")])
def test_a_bad_json_line_is_named(tmp_path, line, words):
    """The error has its file and line number."""
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n' + line + "\n")
    with pytest.raises(BadRecord, match=words):
        frames_of(TabularDataset.from_json_lines_files(path), 1 << 20)


@pytest.mark.parametrize("position", [0, 3, 7])
@pytest.mark.parametrize("size", [4, 1 << 20])
def test_a_record_with_too_many_fields_is_named(tmp_path, position, size):
    """Its position does not matter; pandas alone would shift or drop columns."""
    path = tmp_path / "t.csv"
    lines = [f"{number},x" for number in range(8)]
    lines[position] += ",extra"
    path.write_text("a,b\n" + "\n".join(lines) + "\n")
    with pytest.raises(BadRecord, match=rf"t.csv, record {position + 1} has 3 fields, but the header has 2 columns: 'a,b'"):
        frames_of(TabularDataset.from_delimited_files(path), size)


def test_the_error_suggests_the_likely_delimiter(tmp_path):
    """It does if the header has one column that contains a usual delimiter; the attempt is not retried."""
    path = tmp_path / "t.csv"
    path.write_text("order_id;date;amount\n1;2024-01-01;1,50\n")
    with pytest.raises(BadRecord) as caught:
        frames_of(TabularDataset.from_delimited_files(path), 100)
    words = "record 1 has 2 fields, but the header has 1 column: 'order_id;date;amount' (delimiter ','); is the delimiter ';'?"
    assert str(caught.value) == f"{path}, {words}"
    failure = describe(caught.value)
    assert (failure.type, failure.final) == ("BadRecord", True)
    assert "\nBadRecord: " in failure.traceback
    path.write_text("1;2024-01-01\n1;1,50\n")
    with pytest.raises(BadRecord, match=r"record 2 has 2 fields, but the file's first record has 1 field \(delimiter ','\)$"):
        frames_of(TabularDataset.from_delimited_files(path, header=False), 100)


def test_the_header_is_applied_to_every_mini_batch(tmp_path):
    """It may contain blanks, Unicode, and repeated names."""
    path = tmp_path / "t.tsv"
    path.write_text("ä b\tn\tn\n" + "".join(f"x{number}\t{number}\t0\n" for number in range(50)))
    frames = frames_of(TabularDataset.from_delimited_files(path, delimiter="\t"), 40)
    assert len(frames) > 5
    assert {tuple(frame.columns) for frame in frames} == {("ä b", "n", "n.1")}
    assert [n for frame in frames for n in frame["n"]] == list(range(50))


def test_without_a_header_columns_are_numbered(tmp_path):
    """pandas numbers them the same way."""
    path = tmp_path / "t.csv"
    path.write_text("1,2\n3,4\n")
    (frame,) = frames_of(TabularDataset.from_delimited_files(path, header=False), 100)
    assert frame.to_numpy().tolist() == [[1, 2], [3, 4]]
    assert list(frame.columns) == [0, 1]


@pytest.mark.parametrize("text", ["", "a,b\n", "\n\n", "a,b"])
def test_a_file_without_records_has_no_mini_batch(tmp_path, text):
    """It is not an error among other files."""
    (tmp_path / "1.csv").write_text(text)
    (tmp_path / "2.csv").write_text("a,b\n1,2\n")
    assert [len(frame) for frame in frames_of(TabularDataset.from_delimited_files(tmp_path), 100)] == [1]


def test_an_unreadable_table_is_named(tmp_path):
    """Planning raises, not a mini-batch hours later."""
    (tmp_path / "t.parquet").write_text("no parquet")
    with pytest.raises(InputError, match=r"t.parquet: cannot be read as parquet"):
        works(TabularDataset.from_parquet_files(tmp_path), 100)


def test_a_dataset_is_a_value(tmp_path):
    """It can be shown, stored as JSON and restored."""
    dataset = TabularDataset.from_delimited_files(tmp_path, delimiter=";").as_named_input("sales")
    assert TabularDataset.model_validate_json(dataset.model_dump_json()) == dataset
    with pytest.raises(ValueError, match="name"):
        dataset.as_named_input("no name")
    with pytest.raises(ValueError, match="delimiter"):
        TabularDataset.from_delimited_files(tmp_path, delimiter="::")
