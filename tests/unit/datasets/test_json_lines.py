"""JSON lines: every mini-batch has the types of the whole file, and a broken record is named."""

import io
import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run.child.reading import BadRecord, Reader
from prefect_parallel_run.datasets import text as module
from prefect_parallel_run.datasets.tabular import TabularDataset

VALUE = st.sampled_from([None, 0, 1, -7, 0.5, True, False, "x", "1", "é", [1, 2], {"k": 1}])


def frames(path, size):
    reader = Reader()
    cuts = TabularDataset.from_json_lines_files([path]).as_named_input("t").cuts(size)
    return [reader.read(json.loads(cut.work)) for cut in cuts]


def column(kinds):
    return st.lists(st.sampled_from(kinds), min_size=8, max_size=8)


@given(
    columns=st.lists(st.lists(VALUE, min_size=1, max_size=3).flatmap(column), min_size=1, max_size=3),
    size=st.integers(1, 60),
    part=st.integers(1, 60),
    blank=st.sampled_from(["", "\n", " \n", "\n\n  "]),
)
def test_parts_have_the_types_and_values_of_the_whole(columns, size, part, blank, tmp_path_factory):
    """The cuts do not matter; pandas has no type for a column without values."""
    rows = [dict(zip("abc", row, strict=False)) for row in zip(*columns, strict=True)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    path.write_text(text + blank)
    whole = pd.read_json(io.StringIO(text), lines=True, dtype=False)
    saved, module._BLOCK = module._BLOCK, part
    try:
        found = frames(path, size)
    finally:
        module._BLOCK = saved
    joined = pd.concat(found, ignore_index=True)
    for name in whole.columns[whole.notna().any()]:
        assert {str(frame[name].dtype) for frame in found} == {str(whole[name].dtype)}
        assert joined[name].isna().tolist() == whole[name].isna().tolist()
        assert list(map(repr, joined[name].dropna())) == list(map(repr, whole[name].dropna()))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": "\xff"}', "is not UTF-8: byte 0xff"),
        (b'{"a": "\xed\xa0\xbd"}', "is not UTF-8: byte 0xed"),
        (rb'{"a": "half \ud83d"}', r"\\ud83d is half a surrogate pair"),
        (rb'{"\uDE00": 1}', r"\\ude00 is half a surrogate pair"),
        (rb'{"a": ["\ud83d\ud83d"]}', "half a surrogate pair"),
        (b'{"a": ', "not JSON"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b"3", "a int, not an object"),
    ],
)
def test_a_broken_record_is_named_and_not_retried(tmp_path, line, reason):
    """It does not affect the columns."""
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"a": "x"}\n{"a": "y"}\n' + line + b'\n{"a": "\\ud83d\\ude00"}\n')
    (cut,) = TabularDataset.from_json_lines_files([path]).as_named_input("t").cuts(1 << 20)
    work = json.loads(cut.work)
    assert (work["columns"], work["types"]) == (["a"], ["text"])
    with pytest.raises(BadRecord, match=rf"t\.jsonl, record 3: .*{reason}") as caught:
        Reader().read(work)
    assert caught.value.code == "NoRetry"
    assert Reader().read(work, [3, 4])["a"].tolist() == ["😀"]
