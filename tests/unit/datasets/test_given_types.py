"""Declared types and missing values: parts are read as pandas reads the whole file; invalid values are named."""

import json

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_parallel_run import InputError, TabularDataset
from prefect_parallel_run.child.failure import describe
from prefect_parallel_run.child.reading import BadRecord, Reader
from prefect_parallel_run.runs.fingerprint import dataset_fingerprint

CELL = st.sampled_from(["1", "-7", "007", "2.5", "999", "999.0", "x", "n.v.", "", "NA", "True", "0x1F", "1e5"])


pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # numpy's, of what pandas then refuses


def frames(path, size, **fields):
    dataset = TabularDataset.from_delimited_files(path, **fields).as_named_input("t")
    reader = Reader()
    return [reader.read(json.loads(cut.work)) for cut in dataset.cuts(size)]


@settings(max_examples=15)
@given(
    columns=st.lists(st.lists(CELL, min_size=6, max_size=6), min_size=2, max_size=3),
    kinds=st.lists(st.sampled_from(["string", "int64", "Int64", "float64", "boolean", None]), min_size=3, max_size=3),
    na_values=st.sampled_from([None, ["n.v."], ["999"], ["x", "999.0"], ["True"]]),
    keep=st.booleans(),
    header=st.booleans(),
    size=st.integers(1, 60),
)
@example(
    columns=[["1", "2", "999", "3"], ["x", "n.v.", "", "y"]],
    kinds=["Int64", "string", None],
    na_values=["999", "n.v."],
    keep=True,
    header=True,
    size=1,
)
@example(
    columns=[["x", "NA", "", "n.v."], ["1", "2", "n.v.", "3"], ["1", "", "2", "3"]],
    kinds=["string", "Int64", None],
    na_values=["n.v."],
    keep=False,
    header=True,
    size=1,
)
def test_parts_equal_what_pandas_reads_from_the_whole(columns, kinds, na_values, keep, header, size, tmp_path_factory):
    """With the same dtype and na_values, values and types are equal, or pandas raises an error too."""
    path = tmp_path_factory.mktemp("g") / "t.csv"
    names = ["k", *(f"c{number}" for number in range(len(columns)))]
    lines = [",".join(row) for row in zip(*columns, strict=True)]
    path.write_text((",".join(names) + "\n" if header else "") + "".join(f"k,{line}\n" for line in lines))
    types = {place: kind for place, kind in enumerate(kinds[: len(columns)], 1) if kind is not None}
    by_name = {names[place] if header else str(place): kind for place, kind in types.items()}
    given_ = {"header": header, "column_types": by_name, "na_values": na_values, "keep_default_na": keep}
    dtype = by_name if header else types
    numbers = [column for column, kind in zip(columns, kinds, strict=False) if kind in ("int64", "float64")]
    fits = na_values == ["True"] or not any("True" in column for column in numbers)  # pandas: only where there are numbers too
    try:
        options = {"na_values": na_values, "keep_default_na": keep, "header": "infer" if header else None}
        whole = pd.read_csv(path, dtype=dtype, low_memory=False, **options)
    except (ValueError, TypeError):
        fits = False
    if not fits:
        with pytest.raises(BadRecord, match="by column_types, got"):
            frames(path, size, **given_)
        return
    found = pd.concat(frames(path, size, **given_), ignore_index=True)
    for place in range(whole.shape[1]):
        one, other = found.iloc[:, place], whole.iloc[:, place]
        if place in types or whole.iloc[:, place].dtype in ("int64", "float64", "bool"):
            pd.testing.assert_series_equal(one, other)
        else:
            assert one.isna().tolist() == other.isna().tolist()
            assert one.dropna().astype(str).tolist() == other.dropna().astype(str).tolist()


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("float64", "n.v.", "'n.v.'"),
        ("int64", "1.5", "'1.5'"),
        ("int64", "", "no value"),
        ("int64", "9" * 30, f"'{'9' * 30}'"),
        ("Int64", "2.5", "'2.5'"),
        ("boolean", "yes", "'yes'"),
    ],
)
@pytest.mark.parametrize("position", [0, 4, 8])
def test_a_value_of_another_type_is_named(tmp_path, kind, value, shown, position):
    """The error has file, record, column and value; it is not retried."""
    path = tmp_path / "t.csv"
    values = ["1"] * 9
    values[position] = value
    path.write_text("a,b\n" + "".join(f"7,{one}\n\n" for one in values))
    for size in (1, 1 << 20):
        with pytest.raises(BadRecord) as caught:
            frames(path, size, column_types={"a": "int64", "b": kind})
        words = f"{path}, record {position + 1}, column 'b': expected {kind} by column_types, got {shown}"
        assert str(caught.value) == words
        assert describe(caught.value).final


def test_na_values_make_a_word_a_missing_value(tmp_path):
    """The column has one type in all files."""
    (tmp_path / "a.csv").write_text("id;amount\n1;1,50\n2;2,50\n")
    (tmp_path / "b.csv").write_text("id;amount\n3;3,50\n4;n.v.\n")
    warnings = []
    dataset = TabularDataset.from_delimited_files(
        tmp_path, delimiter=";", decimal=",", column_types={"amount": "float64"}, na_values=["n.v."]
    )
    parts = [Reader().read(json.loads(cut.work))["amount"] for cut in dataset.cuts(1 << 20, warn=warnings.append)]
    assert pd.concat(parts).fillna(-1).tolist() == [1.5, 2.5, 3.5, -1]
    assert warnings == []


def test_keep_default_na_false_keeps_the_string_na(tmp_path):
    """NA is Namibia; other missing values are declared."""
    (tmp_path / "t.csv").write_text("country,n,note\nNA,1,\nDE,-,null\n")
    for size in (1, 100):
        found = pd.concat(frames(tmp_path / "t.csv", size, keep_default_na=False, na_values=["-"]), ignore_index=True)
        assert (found["country"].tolist(), found["note"].tolist()) == (["NA", "DE"], ["", "null"])
        assert found["n"].fillna(-1).tolist() == [1.0, -1.0]


def test_the_type_of_a_repeated_name_applies_to_all(tmp_path):
    """pandas does the same."""
    (tmp_path / "t.csv").write_text("n,n,m\n01,02,03\n")
    (frame,) = frames(tmp_path / "t.csv", 100, column_types={"n": "string"})
    pd.testing.assert_frame_equal(frame, pd.read_csv(tmp_path / "t.csv", dtype={"n": "string"}))


@pytest.mark.parametrize(("header", "name", "there"), [(True, "amuont", r"\['id', 'amount'\]"), (False, "2", r"\['0', '1'\]")])
def test_planning_reports_a_missing_column(tmp_path, header, name, there):
    """pandas would ignore a misspelt name."""
    (tmp_path / "t.csv").write_text("id,amount\n1,2\n")
    with pytest.raises(
        InputError, match=rf"t.csv: lacks the column '{name}', which column_types names; its columns are {there}"
    ):
        frames(tmp_path / "t.csv", 100, column_types={name: "string"}, header=header)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"column_types": {"a": "int"}},
            r"column_types\['a'\]: expected one of string, int64, Int64, float64, boolean, got 'int'",
        ),
        ({"column_types": {"a": 5}}, "valid string"),
        ({"na_values": "n.v."}, "valid list"),
    ],
)
def test_invalid_types_are_rejected(fields, words):
    """The error names the expected types."""
    with pytest.raises(ValidationError, match=words):
        TabularDataset.from_delimited_files("x.csv", **fields)


def test_other_formats_have_types_of_their_own():
    """column_types would be ignored there."""
    with pytest.raises(ValidationError, match=r"column_types: expected None, .* got"):
        TabularDataset(paths=["x"], format="parquet", column_types={"a": "string"})
    with pytest.raises(ValidationError, match=r"keep_default_na: expected True, .* got False"):
        TabularDataset(paths=["x"], format="json_lines", keep_default_na=False)


def test_declared_types_change_the_fingerprint():
    """They change the items; without them the fingerprint equals that of an earlier version."""
    usual = TabularDataset.from_delimited_files("/x")
    other = TabularDataset.from_delimited_files("/x", column_types={"a": "string"}, na_values=["-"])
    assert not {"column_types", "na_values", "keep_default_na"} & dataset_fingerprint(usual.model_dump()).keys()
    assert dataset_fingerprint(other.model_dump()).items() >= {"column_types": {"a": "string"}, "na_values": ["-"]}.items()
    strings = TabularDataset.from_delimited_files("/x", keep_default_na=False)
    assert dataset_fingerprint(strings.model_dump()) == {**dataset_fingerprint(usual.model_dump()), "keep_default_na": False}
    assert TabularDataset.model_validate_json(other.model_dump_json()) == other
    assert TabularDataset.from_delimited_files("/x", column_types={}, na_values=[]) == usual
