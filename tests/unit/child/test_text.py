"""Text in any encoding and compression: the same rows, forward and back, and errors that name the file."""

import bz2
import codecs
import gzip
import io
import json
import lzma
import zipfile

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run import InputError, TabularDataset
from prefect_parallel_run.child import text as module
from prefect_parallel_run.child.delimited import DelimitedReader
from prefect_parallel_run.child.reading import BadRecord, Reader
from prefect_parallel_run.child.text import TextStream, is_transparent

COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
KINDS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-7", "latin-1", "cp1252", "iso8859-15", "shift_jis"]
ENCODINGS += ["gb18030", "big5", "euc_kr", "koi8-r", "cp037", "iso2022_jp"]
LETTERS = {"shift_jis": "表ソ", "gb18030": "é漢€", "big5": "功許", "euc_kr": "한글", "koi8-r": "жЯ", "iso2022_jp": "漢字"}


def works(dataset, size):
    return [json.loads(cut.work) for cut in dataset.as_named_input("t").cuts(size)]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ending", COMPRESS)
def test_every_encoding_and_compression_gives_the_same_rows(tmp_path, encoding, ending):
    """Small mini-batches are read in order, backwards, and one repeatedly; a byte order mark is not part of the first name."""
    letters = LETTERS.get(encoding, "é") if encoding not in ("utf-8", "utf-8-sig", "utf-16") else "é漢😀"
    frame = pd.DataFrame({f"n{letters}": range(200), "t": [f'{letters}, "{n}"\n{letters}' for n in range(200)]})
    path = tmp_path / f"t.csv{ending}"
    path.write_bytes(COMPRESS[ending](frame.to_csv(index=False).encode(encoding)))
    planned = works(TabularDataset.from_delimited_files(path, encoding=encoding), 300)
    assert len(planned) > 10
    assert ("stream" in planned[0]) == bool(ending or not (is_transparent(encoding)))
    reader = Reader()
    in_order = pd.concat([reader.read(work) for work in planned], ignore_index=True)
    pd.testing.assert_frame_equal(in_order, frame)
    backwards = [reader.read(work) for work in reversed(planned)]
    pd.testing.assert_frame_equal(pd.concat(backwards[::-1], ignore_index=True), frame)
    again = reader.read(planned[3])
    pd.testing.assert_frame_equal(reader.read(planned[3]), again)
    piece = reader.read(planned[3], [1, 2])
    pd.testing.assert_frame_equal(piece, again[1:2].reset_index(drop=True))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
@pytest.mark.parametrize("ending", COMPRESS)
def test_json_lines_have_the_same_rows_in_any_encoding(tmp_path, encoding, ending):
    """Each slice is UTF-8."""
    path = tmp_path / f"t.jsonl{ending}"
    lines = [json.dumps({"n": n, "t": f"é{n}"}, ensure_ascii=False) for n in range(50)]
    path.write_bytes(COMPRESS[ending]("\n".join(lines).encode(encoding)))
    reader = Reader()
    frames = [reader.read(work) for work in works(TabularDataset.from_json_lines_files(path, encoding=encoding), 100)]
    assert len(frames) > 5
    assert pd.concat(frames)["t"].tolist() == [f"é{n}" for n in range(50)]


def test_the_next_mini_batch_costs_only_its_own_bytes(tmp_path, monkeypatch):
    """The stream stays open; a retried mini-batch comes from memory; an earlier one reopens the file."""
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"n\n" + b"".join(b"%d\n" % n for n in range(1000))))
    planned = works(TabularDataset.from_delimited_files(path), 200)
    opened = []
    original = module.open_file
    monkeypatch.setattr(module, "open_file", lambda path: opened.append(path) or original(path))
    reader = Reader()
    for work in planned:
        reader.read(work)
        reader.read(work)
    assert len(opened) == 1
    reader.read(planned[0])
    assert len(opened) == 2
    reader.read(planned[5])
    assert len(opened) == 2


@given(data=st.binary(max_size=300), size=st.integers(1, 50), chunk=st.integers(1, 50), members=st.integers(1, 4))
@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_concatenated_streams_are_one_text(data, size, chunk, members, ending, tmp_path_factory):
    """gzip, bzip2 and zstd themselves read them so."""
    path = tmp_path_factory.mktemp("c") / f"t{ending}"
    path.write_bytes(COMPRESS[ending](data) * members)
    saved, module._CHUNK = module._CHUNK, chunk
    try:
        stream = TextStream(str(path), KINDS[ending], "utf-8")
        found = b"".join(iter(lambda: stream.read(size), b""))
        stream.close()
    finally:
        module._CHUNK = saved
    assert found == (data * members).removeprefix(codecs.BOM_UTF8)
    assert stream.position == len(found)


@given(
    text=st.text(max_size=100), chunk=st.integers(1, 9), encoding=st.sampled_from(["utf-16", "utf-16-le", "utf-7", "utf-32"])
)
def test_a_character_may_span_two_reads(text, chunk, encoding, tmp_path_factory):
    """Chunks of bytes end anywhere."""
    path = tmp_path_factory.mktemp("c") / "t"
    path.write_bytes(text.encode(encoding))
    saved, module._CHUNK = module._CHUNK, chunk
    try:
        stream = TextStream(str(path), None, encoding)
        found = stream.read(1 << 20)
        stream.close()
    finally:
        module._CHUNK = saved
    assert found.decode() == text.removeprefix("\ufeff")


@pytest.mark.parametrize(
    ("ending", "damage"),  # zstd's usual frames hold no checksum
    [(ending, damage) for ending in (".gz", ".bz2", ".xz", ".zst") for damage in ("cut", "none of it", "garbled")][:-1],
)
def test_a_damaged_file_is_named(tmp_path, ending, damage):
    """Planning raises the error."""
    path = tmp_path / f"t.csv{ending}"
    whole = COMPRESS[ending](b"n\n" + b"".join(b"%d\n" % (n * 7919 % 10007) for n in range(10_000)))
    middle = len(whole) // 2
    garbled = whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 50]) + whole[middle + 50 :]
    path.write_bytes({"cut": whole[:-9], "garbled": garbled, "none of it": b"n\n1\n"}[damage])
    with pytest.raises(InputError, match=rf"t.csv{ending}: cannot be read as delimited: has damaged (gzip|bz2|xz|zstd) data"):
        works(TabularDataset.from_delimited_files(tmp_path), 100)


def test_damaged_compressed_text_is_retried(tmp_path):
    """A disk or store that fails for a moment looks like damage; a wrong encoding does not change."""
    for ending, encoding, text, code in ((".gz", "utf-8", b"n\n1\n", None), ("", "utf-16", b"\xff\xfen\0\n\0", "NoRetry")):
        path = tmp_path / f"t.csv{ending}"
        path.write_bytes(COMPRESS[ending](text))
        work = {"path": str(path), "version": 1, "start": 0, "stop": 9, "stream": {"compression": None, "encoding": encoding}}
        work["stream"]["compression"] = "gzip" if ending else None
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(BadRecord, match=r"t\.csv") as caught:
            DelimitedReader().read(work)
        assert caught.value.code == code


def test_bytes_of_another_encoding_are_an_error(tmp_path):
    """The mini-batch fails, or planning if the file is a stream; no wrong characters reach run()."""
    good, bad = b"t\nabc\n", "é\n".encode("latin-1")
    (tmp_path / "u.csv").write_bytes(good + bad + b"x\n")
    first, second, third = works(TabularDataset.from_delimited_files(tmp_path / "u.csv"), 1)
    assert Reader().read(first)["t"].tolist() == ["abc"]
    assert Reader().read(third)["t"].tolist() == ["x"]
    with pytest.raises(BadRecord, match=r"u.csv, 1 records from 2 on: is not UTF-8"):
        Reader().read(second)
    (tmp_path / "w.csv").write_bytes(b"t\nabc\n\x81\n")
    works_ = works(TabularDataset.from_delimited_files(tmp_path / "w.csv", encoding="cp1252"), 1)
    with pytest.raises(BadRecord, match=r"w.csv, 1 records from 2 on: is not CP1252"):
        Reader().read(works_[1])
    (tmp_path / "x.csv").write_bytes("t\nabc\n".encode("utf-16") + b"\x00")
    with pytest.raises(InputError, match=r"x.csv: cannot be read as delimited: is not UTF-16"):
        works(TabularDataset.from_delimited_files(tmp_path / "x.csv", encoding="utf-16"), 1)


def test_a_later_byte_order_mark_is_text(tmp_path):
    """pandas would drop it at the start of a mini-batch."""
    path = tmp_path / "t.csv"
    path.write_text("t\nabc\n\ufeffx\n\ufeffy\n")
    found = [Reader().read(work)["t"].tolist() for work in works(TabularDataset.from_delimited_files(path), 1)]
    assert found == [["abc"], ["\ufeffx"], ["\ufeffy"]]


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz", "zstd"])
def test_compression_can_be_passed(tmp_path, compression):
    """The file's name may not show it, or may be wrong."""
    ending = next(ending for ending, kind in KINDS.items() if kind == compression)
    (tmp_path / "t.data").write_bytes(COMPRESS[ending](b"n\n1\n"))
    (work,) = works(TabularDataset.from_delimited_files(tmp_path / "t.data", compression=compression), 100)
    assert Reader().read(work)["n"].tolist() == [1]
    (tmp_path / f"t{ending}").write_bytes(b"n\n1\n")
    (work,) = works(TabularDataset.from_delimited_files(tmp_path / f"t{ending}", compression=None), 100)
    assert Reader().read(work)["n"].tolist() == [1]


def zipped(data):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("t.csv", data)
    return file.getvalue()


@pytest.mark.parametrize("read", [TabularDataset.from_delimited_files, TabularDataset.from_json_lines_files])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
@pytest.mark.parametrize("ending", KINDS)
def test_compression_is_recognised_by_the_first_bytes(tmp_path, read, encoding, ending):
    """It is not taken for another encoding or a long header; the error says what to pass."""
    data = COMPRESS[ending]('{"n": 1}\n'.encode(encoding))
    for name, options in (("t.csv", {}), (f"t.csv{ending}", {"compression": None})):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}: .*: is compressed with (\w+); pass compression='\1'$"):
            works(read(tmp_path / name, encoding=encoding, **options), 100)
    other = ".gz" if ending != ".gz" else ".xz"
    (tmp_path / f"t{other}").write_bytes(data)
    words = f"is compressed with {KINDS[ending]}, not with {KINDS[other]}; pass compression='{KINDS[ending]}'"
    with pytest.raises(InputError, match=words):
        works(read(tmp_path / f"t{other}", encoding=encoding), 100)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.zip", "t.csv.gz"])
def test_the_error_for_an_archive_says_what_to_do(tmp_path, name):
    """It may hold several files."""
    (tmp_path / name).write_bytes(zipped(b"n\n1\n"))
    with pytest.raises(InputError, match=r"is compressed with zip.*, which is not supported; decompress it, or use one of"):
        works(TabularDataset.from_delimited_files(tmp_path / name), 100)


@pytest.mark.parametrize("text", ["BZh9,PK\n1,2\n", "PK\n1\n", "BZ\n1\n", "7z\n1\n", "(,/\n1,2\n"])
def test_column_names_are_not_taken_for_compression(tmp_path, text):
    """The first bytes of compressed files never begin a text."""
    (tmp_path / "t.csv").write_text(text)
    (work,) = works(TabularDataset.from_delimited_files(tmp_path / "t.csv"), 100)
    assert ",".join(Reader().read(work).columns) == text.partition("\n")[0]


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz"])
def test_a_damaged_stream_among_several_is_an_error(tmp_path, ending):
    """bz2 and lzma themselves silently end the file there; padding is fine."""
    first, second = COMPRESS[ending](b"n\n1\n"), COMPRESS[ending](b"2\n")
    (tmp_path / f"t{ending}").write_bytes(first + bytes(8) + second + bytes(4))
    (work,) = works(TabularDataset.from_delimited_files(tmp_path / f"t{ending}"), 100)
    assert Reader().read(work)["n"].tolist() == [1, 2]
    (tmp_path / f"t{ending}").write_bytes(first + b"X" + second[1:])
    with pytest.raises(InputError, match=f"has damaged {KINDS[ending]} data"):
        works(TabularDataset.from_delimited_files(tmp_path / f"t{ending}"), 100)
