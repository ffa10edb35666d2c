"""All mini-batches of a file have the types that pandas gives the whole of it."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prefect_parallel_run.child.reading import Reader
from prefect_parallel_run.datasets import text as module
from prefect_parallel_run.datasets.tabular import TabularDataset

CELL = st.sampled_from(["", "1", "-2", "007", "1.5", "nan", "x", "True", "False", "1e3", "2024-01-01", "é"])


def frames(dataset, size):
    reader = Reader()
    return [reader.read(json.loads(cut.work)) for cut in dataset.as_named_input("t").cuts(size)]


@given(
    columns=st.lists(st.lists(CELL, min_size=12, max_size=12), min_size=1, max_size=3),
    size=st.integers(1, 60),
    part=st.integers(1, 60),
    header=st.booleans(),
)
def test_delimited_parts_equal_the_whole_file(columns, size, part, header, tmp_path_factory):
    """Types and values do not depend on the cuts, or on the blocks that planning reads."""
    rows = [["k", *row] for row in zip(*columns, strict=True)]
    names = ["key", *(f"c{number}" for number in range(len(columns)))]
    text = pd.DataFrame(rows, columns=names).to_csv(index=False, header=header)
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_text(text)
    whole = pd.read_csv(io.StringIO(text), header=0 if header else None, low_memory=False)
    saved, module._BLOCK = module._BLOCK, part
    try:
        found = frames(TabularDataset.from_delimited_files([path], header=header), size)
    finally:
        module._BLOCK = saved
    assert sum(len(frame) for frame in found) == 12
    for frame in found:
        for place in range(1, whole.shape[1]):
            one, all_ = frame.iloc[:, place], whole.iloc[:, place]
            if all_.dtype in ("int64", "float64", "bool"):
                assert one.dtype == all_.dtype
    together = pd.concat(found, ignore_index=True)
    for place in range(whole.shape[1]):
        one, all_ = together.iloc[:, place], whole.iloc[:, place]
        if all_.dtype in ("int64", "float64", "bool"):
            pd.testing.assert_series_equal(one, all_, check_names=False)
        else:
            assert one.isna().tolist() == all_.isna().tolist()
            assert one.dropna().astype(str).tolist() == all_.dropna().astype(str).tolist()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2, 3, 4], "int64"),
        ([1, None, 3, 4], "float64"),
        ([1, 2, 3, 4.5], "float64"),
        ([True, False, True, True], "bool"),
        ([True, None, True, True], "object"),
        ([None, None, None, None], "float64"),
    ],
)
@pytest.mark.parametrize("part", [1, 1 << 20])
def test_a_json_column_has_one_type_in_all_parts(values, dtype, part, tmp_path, monkeypatch):
    """A line may lack the column."""
    monkeypatch.setattr(module, "_BLOCK", part)
    path = tmp_path / "t.jsonl"
    lines = [{"n": n} if value is None and n == 1 else {"n": n, "v": value} for n, value in enumerate(values)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = frames(TabularDataset.from_json_lines_files([path]), 1)
    assert len(found) == 4
    for frame, value in zip(found, values, strict=True):
        assert list(frame.columns) == ["n", "v"]
        assert frame["n"].dtype == "int64"
        assert frame["v"].dtype == dtype
        assert frame["v"].isna().tolist() == [value is None]
        assert value is None or frame["v"].tolist() == [value]


def test_json_lines_of_any_shape_are_read_as_python_does(tmp_path):
    """They include two types in a column, nested values, dates and a broken line."""
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1, "d": "2024-01-31"}\n{"a": "x", "b": {"c": [1]}}\n{"b": [2]}\n')
    found = frames(TabularDataset.from_json_lines_files([path]), 1)
    assert [list(frame.columns) for frame in found] == [["a", "d", "b"]] * 3
    assert [frame["a"].tolist()[0] for frame in found[:2]] == [1, "x"]
    assert found[0]["d"].tolist() == ["2024-01-31"]
    assert found[1]["b"].tolist() == [{"c": [1]}]
    assert found[2]["b"].tolist() == [[2]]


def test_one_missing_value_makes_all_parts_floats(tmp_path):
    """Integers in a column without missing values stay integers."""
    path = tmp_path / "t.csv"
    values = [str(number) for number in range(1000)]
    values[700] = ""
    pd.DataFrame({"whole": range(1000), "gap": values, "code": ["0" + value for value in values]}).to_csv(path, index=False)
    found = frames(TabularDataset.from_delimited_files([path]), 512)
    assert len(found) > 10
    assert {str(frame["whole"].dtype) for frame in found} == {"int64"}
    assert {str(frame["gap"].dtype) for frame in found} == {"float64"}
    assert np.isnan(pd.concat(found)["gap"]).sum() == 1


def test_numbers_beyond_64_bits_keep_every_digit(tmp_path):
    """They are strings in every mini-batch."""
    path = tmp_path / "t.csv"
    path.write_text("id\n1\n18446744073709551616\n3\n")
    found = pd.concat(frames(TabularDataset.from_delimited_files([path]), 1))
    assert found["id"].tolist() == ["1", "18446744073709551616", "3"]


UNSIGNED = ["0", "7", str(2**63 - 1), str(2**63), str(2**64 - 1), "-1", "", str(2**64)]


@settings(max_examples=60)
@given(values=st.lists(st.sampled_from(UNSIGNED), min_size=1, max_size=8), size=st.integers(1, 60), part=st.integers(1, 60))
@example(values=[str(2**63), ""], size=1, part=1)
@example(values=["", "7", str(2**64 - 1)], size=1, part=10)
@example(values=["-1", str(2**63)], size=100, part=1)
def test_unsigned_integers_have_the_type_of_pandas(values, size, part, tmp_path_factory):
    """Every digit is kept, in every mini-batch and wherever the file is cut for planning."""
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_text("key,id\n" + "".join(f"k,{value}\n" for value in values))
    whole = pd.read_csv(path, low_memory=False)["id"]
    saved, module._BLOCK = module._BLOCK, part
    try:
        found = [frame["id"] for frame in frames(TabularDataset.from_delimited_files([path]), size)]
    finally:
        module._BLOCK = saved
    text = pd.Series([""]).dtype  # "object" before pandas 3
    expected = str(text if whole.dtype == "object" else whole.dtype)  # of integers beyond 64 bits
    assert {str(column.dtype) for column in found} == {expected}
    # Where it gives up numbers that are too large, pandas leaves a gap as an empty string; here it is a null as elsewhere.
    strings = [value for value in whole.dropna().astype(str) if value]
    assert pd.concat(found).dropna().astype(str).tolist() == strings


@pytest.mark.parametrize("part", [1, 1 << 20])
def test_unsigned_integers_beside_floats_are_floats(part, tmp_path, monkeypatch):
    """So they are in pandas; the float and the large integer may be in different blocks."""
    monkeypatch.setattr(module, "_BLOCK", part)
    path = tmp_path / "t.csv"
    path.write_text(f"key,id\nk,{2**63}\nk,\nk,1.5\n")
    found = frames(TabularDataset.from_delimited_files([path]), 1)
    assert {str(frame["id"].dtype) for frame in found} == {str(pd.read_csv(path)["id"].dtype)} == {"float64"}


@pytest.mark.parametrize("header", [True, False])
def test_wide_text_creates_no_series_per_column(header, tmp_path, monkeypatch):
    """The time for thousands of columns depends on the bytes, not on work per column."""
    path = tmp_path / "t.csv"
    width = 300
    names = ",".join(f"c{number}" for number in range(width)) + "\n"
    first, last = (",".join(values * (width // 3)) + "\n" for values in (["1", "2.5", "x"], ["", "1", "007"]))
    path.write_text((names if header else "") + first * 4 + last * 4)
    made = []
    init = pd.Series.__init__
    monkeypatch.setattr(pd.Series, "__init__", lambda self, *args, **rest: made.append(1) or init(self, *args, **rest))
    found = frames(TabularDataset.from_delimited_files([path], header=header), 2 * len(first))
    assert len(found) > 3
    assert len(made) < width  # fewer than one for every column of one mini-batch
    monkeypatch.undo()
    whole = pd.read_csv(path, low_memory=False, header=0 if header else None)
    pd.testing.assert_frame_equal(pd.concat(found, ignore_index=True), whole)
    assert {str(frame.dtypes.tolist()) for frame in found} == {str(whole.dtypes.tolist())}
