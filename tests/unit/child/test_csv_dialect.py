"""For any dialect the mini-batches together equal what pandas reads from the whole file."""

import json

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prefect_parallel_run import InputError, TabularDataset
from prefect_parallel_run.child.reading import BadRecord, Reader
from prefect_parallel_run.datasets import text as module

CELL = st.sampled_from(["", "1", "-2", "3.5", "x", 'q"q', "a,b", "a;b", "l\nl", "b\\b", "r\r\nr", "é", " 5", "True"])


@given(
    columns=st.lists(st.lists(CELL, min_size=9, max_size=9), min_size=1, max_size=3),
    delimiter=st.sampled_from([",", ";", "\t", "|", "\x01"]),
    quote=st.sampled_from(['"', "'"]),
    escape=st.sampled_from([None, "\\", "!"]),
    double_quote=st.booleans(),
    terminator=st.sampled_from(["\n", "\r\n"]),
    size=st.integers(1, 80),
    block=st.integers(1, 80),
)
def test_parts_in_any_dialect_equal_the_whole(
    columns, delimiter, quote, escape, double_quote, terminator, size, block, tmp_path_factory
):
    """Values and types are equal."""
    assume(double_quote or escape)
    path = tmp_path_factory.mktemp("d") / "t.csv"
    written = {"sep": delimiter, "quotechar": quote, "escapechar": escape, "doublequote": double_quote}
    frame = pd.DataFrame([["k", *row] for row in zip(*columns, strict=True)]).rename(columns=lambda n: f"c{n}")
    frame.to_csv(path, index=False, lineterminator=terminator, **written)
    try:
        whole = pd.read_csv(path, low_memory=False, **written)
    except pd.errors.ParserError:  # what pandas writes is not always what it can read
        assume(False)
    given_ = {"delimiter": delimiter, "quote": quote, "escape": escape, "double_quote": double_quote}
    saved, module._BLOCK = module._BLOCK, block
    try:
        works = [json.loads(c.work) for c in TabularDataset.from_delimited_files(path, **given_).as_named_input("t").cuts(size)]
    finally:
        module._BLOCK = saved
    reader = Reader()
    try:
        found = [reader.read(work) for work in works]
    except BadRecord:
        assume(False)
    for place in range(whole.shape[1]):
        one = pd.concat([part.iloc[:, place] for part in found], ignore_index=True)
        if whole.iloc[:, place].dtype in ("int64", "float64", "bool"):
            assert {str(part.iloc[:, place].dtype) for part in found} == {str(whole.iloc[:, place].dtype)}
            pd.testing.assert_series_equal(one, whole.iloc[:, place], check_names=False)
        else:
            assert one.isna().tolist() == whole.iloc[:, place].isna().tolist()
            assert one.dropna().astype(str).tolist() == whole.iloc[:, place].dropna().astype(str).tolist()


def test_a_piece_of_a_mini_batch_respects_the_dialect(tmp_path):
    """Bisection must find the failing record among escapes, multi-line quotes and blank lines."""
    path = tmp_path / "t.csv"
    path.write_text("a;b\n1;'x\ny'\n\n2;p\\\nq\n3;r\\;s\n4;'t'';u'\n")
    dataset = TabularDataset.from_delimited_files(path, delimiter=";", quote="'", escape="\\").as_named_input("t")
    (cut,) = dataset.cuts(1 << 20)
    work = json.loads(cut.work)
    texts = ["x\ny", "p\nq", "r;s", "t';u"]
    assert Reader().read(work)["b"].tolist() == texts
    for start in range(4):
        for stop in range(start + 1, 5):
            assert Reader().read(work, [start, stop])["b"].tolist() == texts[start:stop]


def test_a_record_with_too_many_fields_is_named_in_any_dialect(tmp_path):
    """Its fields are counted as in pandas."""
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,x\\,y\n2,p\\,q,r\n")
    (cut,) = TabularDataset.from_delimited_files(path, escape="\\").as_named_input("t").cuts(1 << 20)
    with pytest.raises(BadRecord, match=r"t.csv, record 2 has 3 fields, but the header has 2 columns"):
        Reader().read(json.loads(cut.work))


def test_a_decimal_comma_applies_to_every_mini_batch(tmp_path):
    """pandas must get the option for each part."""
    path = tmp_path / "t.csv"
    path.write_text("a;b\n1,5;1\n2;2\n-0,25;3\n")
    cuts = TabularDataset.from_delimited_files(path, delimiter=";", decimal=",").as_named_input("t").cuts(1)
    frames = [Reader().read(json.loads(cut.work)) for cut in cuts]
    assert [frame["a"].tolist() for frame in frames] == [[1.5], [2.0], [-0.25]]
    assert {str(frame["b"].dtype) for frame in frames} == {"int64"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"delimiter": "::"}, "delimiter: expected one ASCII character .*, got '::'"),
        ({"delimiter": "·"}, "delimiter: expected one ASCII character .*, got '·'"),
        ({"delimiter": "\n"}, r"delimiter: expected .*, got '\\n'"),
        ({"delimiter": ""}, "delimiter: expected .*, got ''"),
        ({"quote": "''"}, "quote: expected"),
        ({"quote": " "}, "quote: expected one ASCII character that is not a blank, got ' '"),
        ({"escape": ""}, "escape: expected .*, got ''"),
        ({"escape": '"'}, "escape: expected another character than quote, got '\"' for both"),
        ({"decimal": ","}, "decimal: expected another character than delimiter, got ',' for both"),
        ({"decimal": "·"}, "decimal: expected .*, got '·'"),
        ({"encoding": "utf-9"}, "encoding: expected an encoding that Python knows, .* got 'utf-9'"),
        ({"encoding": "rot13"}, "encoding: .* got 'rot13'"),
        ({"compression": "rar"}, "compression"),
    ],
)
def test_an_invalid_dialect_is_rejected(fields, words):
    """The error has the field, the value, and what is expected."""
    with pytest.raises(ValueError, match=words):
        TabularDataset.from_delimited_files("/x", **fields)


def test_a_dialect_is_a_value():
    """It can be stored as JSON and restored; omitted fields have their defaults."""
    fields = {"delimiter": "|", "quote": "", "escape": "\\", "decimal": ",", "encoding": "utf-16", "compression": None}
    dataset = TabularDataset.from_delimited_files("/x", **fields, double_quote=False, header=False)
    assert TabularDataset.model_validate_json(dataset.model_dump_json()) == dataset
    usual = TabularDataset.from_delimited_files("/x")
    assert TabularDataset(paths=["/x"], format="delimited") == usual


def test_a_record_without_end_is_named(tmp_path, monkeypatch):
    """An unclosed quote must not exhaust the memory."""
    monkeypatch.setattr(module, "_BLOCK", 64)
    monkeypatch.setattr(module, "_LONGEST", 1 << 10)
    path = tmp_path / "t.csv"
    for text in ('a\n"' + "x\n" * 2_000, "a\n" + "x" * 4_000):
        path.write_text(text)
        with pytest.raises(InputError, match=r"t.csv: has a (record|line) of over"):
            list(TabularDataset.from_delimited_files(path).cuts(10))


@pytest.mark.parametrize("text", ['a\n"b\n', "a\nb\\"])
def test_a_truncated_file_is_named(tmp_path, text):
    """It ends inside quotes, or after an escape character."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=r"t.csv: ends (inside a quoted field|with an escape character)"):
        list(TabularDataset.from_delimited_files(path, escape="\\").cuts(10))
