"""Records of delimited text with missing or further fields mean the same wherever the file is cut."""

import io
import json
import random

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prefect_parallel_run import TabularDataset
from prefect_parallel_run.child.delimited import Dialect, fields_of_first, records
from prefect_parallel_run.child.reading import BadRecord, Reader
from prefect_parallel_run.datasets import text as module

CELL = st.sampled_from(["", "1", "-2", "1.5", "x", "NA", '"a\nb"', '","', "True"])
RECORD = st.lists(CELL, min_size=1, max_size=4).filter(lambda cells: cells != [""])  # a blank line is not a record


def frame_of(path, size, part, **fields):
    """Return all rows of the file, read in mini-batches of *size* bytes and planned in parts of *part* bytes."""
    saved, module._BLOCK = module._BLOCK, part
    try:
        cuts = list(TabularDataset.from_delimited_files([path], **fields).as_named_input("t").cuts(size))
    finally:
        module._BLOCK = saved
    reader = Reader()
    return pd.concat([reader.read(json.loads(cut.work)) for cut in cuts], ignore_index=True)


def whole_by_pandas(text, header):
    """Return what pandas reads; None for a record with too many fields, of which it may only warn."""
    try:
        frame = pd.read_csv(io.StringIO(text), header=0 if header else None, index_col=False, low_memory=False)
    except (pd.errors.ParserError, pd.errors.ParserWarning):
        return None
    return frame


@pytest.mark.parametrize("header", [False, True])
@settings(max_examples=60)
@given(
    lines=st.lists(RECORD, min_size=1, max_size=6),
    last_newline=st.booleans(),
    sizes=st.tuples(st.integers(1, 10), st.sampled_from([20, 1 << 20])),
    part=st.sampled_from([1, 7, 1 << 20]),
)
@example(lines=[["1", "2"], ["3"]], last_newline=False, sizes=(1, 1 << 20), part=1)
@example(lines=[["1", "2"], ["3", "4", ""]], last_newline=True, sizes=(1, 1 << 20), part=1 << 20)
@example(lines=[["1", "2", "", ""], ["3"]], last_newline=False, sizes=(1, 1 << 20), part=1)
@example(lines=[["1", "2", "3", ""], ["3", "", "", "x"]], last_newline=False, sizes=(1, 1 << 20), part=1)
@example(lines=[["1", "2", "3", "NA"], ["3"]], last_newline=False, sizes=(1, 1 << 20), part=1)
def test_rows_do_not_depend_on_the_cuts(header, lines, last_newline, sizes, part, tmp_path_factory):
    """They are those of pandas; a record with too many fields is an error wherever pandas raises one."""
    text = ("a,b,c\n" if header else "") + "\n".join(map(",".join, lines)) + ("\n" if last_newline else "")
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_text(text)
    expected = whole_by_pandas(text, header)
    for size in sizes:
        if expected is None:
            with pytest.raises(BadRecord, match=r"record \d has \d fields?, but"):
                frame_of(path, size, part, header=header)
            continue
        found = frame_of(path, size, part, header=header)
        assert list(found.columns) == list(expected.columns)
        for place in range(expected.shape[1]):
            one, other = found.iloc[:, place], expected.iloc[:, place]
            assert one.isna().tolist() == other.isna().tolist()
            if other.dtype in ("int64", "float64", "bool"):
                pd.testing.assert_series_equal(one, other)
            else:
                assert one.dropna().astype(str).tolist() == other.dropna().astype(str).tolist()


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize(
    ("header", "said"), [("", "the file's first record has 2 fields"), ("a,b\n", "the header has 2 columns")]
)
def test_a_record_with_too_many_fields_is_named(tmp_path, header, said, size):
    """It may be the first of its mini-batch, and its extra field may be empty."""
    for long in ("3,4,5", "3,4,", "3,4,,"):
        (tmp_path / "t.csv").write_text(f"{header}1,2\n{long}\n5,6\n")
        with pytest.raises(BadRecord, match=rf"t.csv, record 2 has {long.count(',') + 1} fields, but {said}"):
            frame_of(tmp_path / "t.csv", size, 1 << 20, header=bool(header))


def test_a_trailing_delimiter_is_not_a_column(tmp_path):
    """So it is in pandas; a value behind it in one record is an error, not dropped."""
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2,\n3,4\n5,6,\n")
    for size in (1, 1 << 20):
        pd.testing.assert_frame_equal(frame_of(path, size, 1 << 20), pd.DataFrame({"a": [1, 3, 5], "b": [2, 4, 6]}))
        assert len(frame_of(path, size, 1 << 20, keep_default_na=False)) == 3
    path.write_text("a,b\n1,2,\n3,4\n5,6,x\n")
    for size in (1, 1 << 20):
        with pytest.raises(BadRecord, match=r"t.csv, record 3 has 3 fields, but the header has 2 columns"):
            frame_of(path, size, 1 << 20)


@given(st.text(st.sampled_from('a,;"\\\n\r '), max_size=12), st.sampled_from(["", "\n", "\r\n", "  \n"]))
def test_fields_of_the_first_record_are_counted_like_others(text, front):
    """A line without quotes and escapes is counted faster."""
    data = (front + text).encode()
    for dialect in (Dialect(b",", b'"'), Dialect(b";", b"", b"\\"), Dialect(b",", b'"', b"\\", double_quote=False)):
        assert fields_of_first(data, dialect) == next((fields for _, _, fields in records(data, dialect)), 0)


def test_the_first_record_may_be_long():
    """The part of the data that is searched for its end grows."""
    fields = ['"' + "x" * random.Random(7).randrange(100) + '\n"' for _ in range(1000)]
    assert fields_of_first(b"\n \n" + ",".join(fields).encode() + b"\n1,2\n" * 10, Dialect(b",", b'"')) == 1000
