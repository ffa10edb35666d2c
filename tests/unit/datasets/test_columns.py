"""Columns that a dataset keeps or drops: what run() gets is the whole table reduced to them, in every format."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_parallel_run import InputError, TabularDataset
from prefect_parallel_run.child.reading import BadRecord, Reader
from prefect_parallel_run.runs.fingerprint import dataset_fingerprint

from .test_formats import WRITERS

ROWS = 6
KINDS = {
    "i64": (pa.int64(), [1, -2, 3, 4, 5, 6]),
    "b": (pa.bool_(), [True, False] * 3),
    "f": (pa.float64(), [0.5, 1.0, -2.0, 3.25, 0.0, 7.0]),
    "s": (pa.string(), ["x", "007", "", "ä b", "a;b", "y"]),
    "l": (pa.list_(pa.int64()), [[1], [], [2, 3], [4], [5], [6]]),
    "struct": (pa.struct([("b", pa.int64()), ("c", pa.string())]), [{"b": number, "c": "x"} for number in range(ROWS)]),
}
NAMES = ["a", "b c", "a.b", "ü", "0", "z"]  #: Parquet and ORC call a field b of a struct a "a.b" too
TEXT = ["delimited", "delimited without header", "json_lines"]


def column(kind, gaps):
    """A column of a type, with nulls."""
    data_type, values = KINDS[kind]
    return pa.array([None if place in gaps else value for place, value in enumerate(values)], data_type)


@st.composite
def tables(draw):
    """Columns of any types with some nulls, and a nonempty selection of their names."""
    gaps = st.sets(st.integers(0, ROWS - 1), max_size=2)
    kinds = draw(st.dictionaries(st.sampled_from(NAMES), st.tuples(st.sampled_from(sorted(KINDS)), gaps), min_size=1))
    chosen = draw(st.lists(st.sampled_from(sorted(kinds)), unique=True, min_size=1))
    return pa.table({name: column(*kind) for name, kind in kinds.items()}), chosen


def write(kind, table, path, rows, odd):
    """Write *table* in a format, with records that are shorter, longer or quoted in text where *odd* says so."""
    if kind in WRITERS:
        WRITERS[kind](table, str(path), rows)
        return make(kind)(path)
    frame = table.to_pandas()
    if kind == "json_lines":
        # Values that are missing, in some records, and so are keys.
        records = [{name: value for name, value in row.items() if value is not None or odd} for row in table.to_pylist()]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return TabularDataset.from_json_lines_files(path)
    has_header = kind == "delimited"
    text = frame.to_csv(index=False, header=has_header, sep=";", quoting=1 if odd else 0)
    lines = text.splitlines()
    if odd and len(table.column_names) > 1:
        lines[-1] = lines[-1].rpartition(";")[0]  # a field is missing
    path.write_text("\n".join(lines) + "\n")
    return TabularDataset.from_delimited_files(path, delimiter=";", header=has_header)


def make(kind):
    makers = {"parquet": TabularDataset.from_parquet_files, "orc": TabularDataset.from_orc_files}
    return makers.get(kind.split()[0], TabularDataset.from_arrow_files)


def frames(dataset, size=1 << 20, warn=lambda text: None):
    reader = Reader()
    return [reader.read(json.loads(cut.work)) for cut in dataset.as_named_input("t").cuts(size, warn=warn)]


def whole(dataset, size=1 << 20):
    return pd.concat(frames(dataset, size), ignore_index=True)


DOTTED = pa.table({"a.b": column("f", {1}), "a": column("struct", ()), "z": column("i64", {2})})


@settings(max_examples=60)
@given(
    drawn=tables(),
    kind=st.sampled_from([*sorted(WRITERS), *TEXT]),
    rows=st.integers(1, ROWS),
    size=st.sampled_from([1, 40, 200]),
    odd=st.booleans(),
)
@example(drawn=(DOTTED, ["a.b"]), kind="orc", rows=5, size=1, odd=False)
@example(drawn=(DOTTED, ["a"]), kind="orc", rows=5, size=1, odd=False)
@example(drawn=(DOTTED, ["a.b"]), kind="parquet", rows=5, size=1, odd=False)
@example(drawn=(DOTTED, ["a"]), kind="parquet", rows=5, size=1, odd=False)
def test_the_rows_are_those_of_the_whole_table_reduced_to_the_columns(drawn, kind, rows, size, odd, tmp_path_factory):
    """With the same values, types and order, whether the columns are kept or the others dropped."""
    table, chosen = drawn
    path = tmp_path_factory.mktemp("c") / "t"
    dataset = write(kind, table, path, rows, odd)
    full = whole(dataset, size)
    names = [str(name) for name in full.columns]
    chosen = [name for name in chosen if name in names] or names[:1]
    if kind == "delimited without header":
        chosen = [str(number) for number in range(len(chosen))]
    expected = full[[column for column in full.columns if str(column) in chosen]]
    pd.testing.assert_frame_equal(whole(dataset.keep_columns(chosen), size), expected)
    others = [name for name in names if name not in chosen]
    if others:
        pd.testing.assert_frame_equal(whole(dataset.drop_columns(others), size), expected)


@pytest.mark.parametrize("kind", sorted({*WRITERS} - {"orc"}))  # ORC has no repeated names
def test_columns_of_one_name_are_kept_together(tmp_path, kind):
    """As pandas does with frame[[name]]."""
    table = pa.table([pa.array([1, 2, 3]), pa.array([4, 5, 6]), pa.array([1, None, 3])], names=["n", "m", "n"])
    WRITERS[kind](table, str(tmp_path / "t"), 1)
    dataset = make(kind)(tmp_path / "t")
    full = whole(dataset, 1)
    pd.testing.assert_frame_equal(whole(dataset.keep_columns("n"), 1), full[["n"]])
    pd.testing.assert_frame_equal(whole(dataset.drop_columns("n"), 1), full[["m"]])


def test_the_columns_keep_the_order_of_their_file(tmp_path):
    """As in pandas.read_csv(usecols=...): the order of the names is not significant."""
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,3\n")
    dataset = TabularDataset.from_delimited_files(tmp_path / "t.csv")
    assert [list(frame.columns) for frame in frames(dataset.keep_columns(["c", "a"]))] == [["a", "c"]]


def test_a_selection_narrows_the_one_before():
    """Every method returns a new dataset."""
    dataset = TabularDataset.from_parquet_files("/t")
    kept = dataset.keep_columns(["a", "b", "c"])
    assert dataset.kept_columns is None
    assert kept.drop_columns("b").kept_columns == ["a", "c"]
    assert kept.keep_columns("b").kept_columns == ["b"]
    dropped = dataset.drop_columns(["a"]).drop_columns(["b"])
    assert dropped.dropped_columns == ["a", "b"]
    assert (dropped.keep_columns(["c"]).kept_columns, dropped.keep_columns(["c"]).dropped_columns) == (["c"], None)
    assert dataset.drop_columns([]) == dataset
    assert kept.as_named_input("t").kept_columns == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("select", "words"),
    [
        (lambda kept: kept.keep_columns([]), r"keep_columns: expected at least one column, got \[\]"),
        (
            lambda kept: kept.keep_columns(["c"]),
            "keep_columns: .* that earlier calls kept, got 'c', which an earlier keep_columns removed",
        ),
        (
            lambda kept: kept.drop_columns("c"),
            "drop_columns: .* that earlier calls kept, got 'c', which an earlier keep_columns removed",
        ),
        (lambda kept: kept.drop_columns(["b", "a"]), r"drop_columns: expected to keep at least one of \['a', 'b'\], got all"),
        (lambda kept: kept.keep_columns(["a", "a"]), "keep_columns: expected different columns, got 'a' more than once"),
    ],
)
def test_impossible_selections_are_refused(select, words):
    """When they are made, not in planning."""
    with pytest.raises(ValueError, match=words):
        select(TabularDataset.from_parquet_files("/t").keep_columns(["a", "b"]))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"keep_columns": ["a"], "drop_columns": ["b"]}, "set either keep_columns or drop_columns, not both"),
        ({"keep_columns": []}, "keep_columns: expected at least one column, or None for all"),
        ({"drop_columns": ["a", "b", "a"]}, "drop_columns: expected different columns, got 'a' more than once"),
    ],
)
def test_invalid_fields_are_refused(fields, words):
    """They are fields of JSON, the form and the command line."""
    with pytest.raises(ValidationError, match=words):
        TabularDataset(paths=["/t"], format="parquet", **fields)


def test_a_selection_is_part_of_the_dataset_and_its_fingerprint():
    """Without one, both are those of an earlier version."""
    plain = TabularDataset.from_parquet_files("/t")
    kept = plain.keep_columns(["a"])
    assert not {"keep_columns", "kept_columns", "drop_columns", "dropped_columns"} & plain.model_dump().keys()
    assert dataset_fingerprint(kept.model_dump(mode="json")) == {
        **dataset_fingerprint(plain.model_dump()),
        "keep_columns": ["a"],
    }
    assert TabularDataset.model_validate_json(kept.model_dump_json()) == kept
    assert TabularDataset(paths=["/t"], format="parquet", drop_columns=["a"]) == plain.drop_columns("a")


@pytest.mark.parametrize("kind", [*sorted(WRITERS), "delimited", "json_lines"])
def test_an_unknown_column_is_named_with_its_file(tmp_path, kind):
    """Planning raises, before anything runs; a dropped column must exist too."""
    dataset = write(kind, pa.table({"amount": column("i64", ()), "day": column("s", ())}), tmp_path / "t", ROWS, odd=False)
    for method in ("keep_columns", "drop_columns"):
        words = rf"/t: lacks the column 'amuont', which {method} names; did you mean amount\?; its columns are 'amount', 'day'"
        with pytest.raises(InputError, match=words):
            frames(getattr(dataset, method)(["amuont"]))
    with pytest.raises(InputError, match="/t: has no columns except those in drop_columns: 'amount', 'day'"):
        frames(dataset.drop_columns(["day", "amount"]))


def test_a_file_without_rows_may_lack_the_columns(tmp_path):
    """It adds nothing to the table."""
    (tmp_path / "1.csv").write_text("other\n")
    (tmp_path / "2.csv").write_text("a,b\n1,2\n")
    assert [list(frame.columns) for frame in frames(TabularDataset.from_delimited_files(tmp_path).keep_columns("b"))] == [["b"]]


def test_files_that_differ_in_other_columns_cause_no_warning(tmp_path):
    """run() gets the same columns from both."""
    (tmp_path / "1.csv").write_text("a,b,c\n1,x,3\n")
    (tmp_path / "2.csv").write_text("b,a\ny,n.v.\n")
    warnings = []
    dataset = TabularDataset.from_delimited_files(tmp_path)
    frames(dataset.keep_columns(["b"]), warn=warnings.append)
    assert warnings == []
    frames(dataset.keep_columns(["a"]), warn=warnings.append)
    assert len(warnings) == 1
    assert warnings[0].startswith("column 'a': integers in ")


def test_types_of_a_dropped_column_have_no_effect(tmp_path):
    """A misspelt name in column_types is still an error."""
    (tmp_path / "t.csv").write_text("a,b\n1,x\n2,y\n")
    dataset = TabularDataset.from_delimited_files(tmp_path / "t.csv", column_types={"a": "string", "b": "int64"})
    assert whole(dataset.keep_columns("a"))["a"].tolist() == ["1", "2"]
    with pytest.raises(BadRecord, match="column 'b': expected int64"):
        frames(dataset)
    other = TabularDataset.from_delimited_files(tmp_path / "t.csv", column_types={"c": "string"})
    with pytest.raises(InputError, match="lacks the column 'c', which column_types names"):
        frames(other.keep_columns("a"))


@pytest.mark.parametrize("kept", ["a", "b"])
@pytest.mark.parametrize("position", [0, 2, 4])
@pytest.mark.parametrize("extra", [",", ",x"])
def test_a_record_with_too_many_fields_is_named_whatever_is_kept(tmp_path, kept, position, extra):
    """pandas alone would accept it once it skips columns; fields may be empty."""
    lines = [f"{number},x" for number in range(5)]
    lines[position] += extra
    (tmp_path / "t.csv").write_text("a,b\n" + "\n".join(lines) + "\n")
    dataset = TabularDataset.from_delimited_files(tmp_path / "t.csv")
    for selected in (dataset, dataset.keep_columns(kept)):
        if position == 0 and extra == ",":  # delimiters at the ends of records, which are ignored as in pandas
            assert whole(selected)[kept].tolist() == whole(dataset)[kept].tolist()
            continue
        with pytest.raises(BadRecord, match=rf"record {position + 1} has 3 fields"):
            frames(selected)


def test_a_field_after_the_last_column_is_found_whatever_is_kept(tmp_path):
    """The first record ends with a delimiter, so every record may have an additional field, but an empty one."""
    (tmp_path / "t.csv").write_text("a,b\n1,2,\n3,4,\n5,6,x\n")
    dataset = TabularDataset.from_delimited_files(tmp_path / "t.csv")
    for selected in (dataset, dataset.keep_columns("a"), dataset.drop_columns("a")):
        with pytest.raises(BadRecord, match="record 3 has 3 fields"):
            frames(selected)


@pytest.mark.parametrize("kind", [*sorted(WRITERS), "delimited", "json_lines"])
def test_keys_of_folders_are_columns(tmp_path, kind):
    """They can be kept, alone too, and dropped; a table that is grouped by them has to keep them."""
    for store in (1, 2):
        (tmp_path / f"store={store}").mkdir()
        write(kind, pa.table({"x": column("i64", ()), "y": column("s", ())}), tmp_path / f"store={store}" / "t", 4, odd=False)
    maker = getattr(TabularDataset, f"from_{kind}_files", None) or make(kind)
    dataset = maker(tmp_path, **({"delimiter": ";"} if kind == "delimited" else {}))
    full = whole(dataset)
    for keep in (["store"], ["x", "store"], ["y"]):
        found = whole(dataset.keep_columns(keep))
        pd.testing.assert_frame_equal(found, full[keep])
        rest = [name for name in full.columns if name not in keep]
        pd.testing.assert_frame_equal(whole(dataset.drop_columns(keep)), full[rest])
    for selected, field in ((dataset.keep_columns("x"), "keep_columns"), (dataset.drop_columns("store"), "drop_columns")):
        words = rf"partition_keys: expected columns that reach run\(\), got 'store', which {field} leaves out; keep it too"
        with pytest.raises(InputError, match=words):
            list(selected.partition_cuts(["store"], tmp_path))
    works = [json.loads(cut.work) for cut in dataset.keep_columns(["store", "x"]).partition_cuts(["store"], tmp_path)]
    assert [work["partition_key_value"] for work in works] == [{"store": 1}, {"store": 2}]
    assert [list(Reader().read(work).columns) for work in works] == [["x", "store"]] * 2


def test_a_partitioned_copy_has_only_the_kept_columns(tmp_path):
    """A key among the columns must be kept."""
    (tmp_path / "t.csv").write_text("store,x,y\n2,1,a\n1,2,b\n2,3,c\n")
    dataset = TabularDataset.from_delimited_files(tmp_path / "t.csv").as_named_input("t")
    cuts = dataset.drop_columns("y").partition_cuts(["store"], tmp_path / "copies")
    assert [Reader().read(json.loads(cut.work)).to_dict("list") for cut in cuts] == [
        {"x": [2], "store": [1]},
        {"x": [1, 3], "store": [2, 2]},
    ]
    for write_copy in (
        lambda: dataset.keep_columns("x").partition_by(["store"], tmp_path / "out"),
        lambda: list(dataset.keep_columns("x").partition_cuts(["store"], tmp_path / "copies")),
    ):
        with pytest.raises(InputError, match=r"partition_keys: .*'store', which keep_columns leaves out"):
            write_copy()


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_the_size_of_a_mini_batch_counts_the_kept_columns(tmp_path, kind):
    """Otherwise each mini-batch would hold a few rows of a wide table. It is at least a byte per row, at most all columns."""
    random = np.random.default_rng(1)
    wide = {f"c{number:02d}": random.integers(-(2**62), 2**62, 1000) for number in range(20)}
    WRITERS[kind](pa.table({**wide, "s": ["text"] * 1000}), str(tmp_path / "t"), 100)
    dataset = make(kind)(tmp_path / "t")
    (cut,) = dataset.keep_columns(["c01", "s"]).cuts(1 << 30)
    assert 1000 * 2 <= cut.size < 1000 * (8 + 12) * 1.2
    (rest,) = dataset.drop_columns(["c01", "s"]).cuts(1 << 30)
    assert rest.size > 5 * cut.size
    assert rest.size <= next(iter(dataset.cuts(1 << 30))).size
    assert len(frames(dataset.keep_columns("c01"), 4000)) < len(frames(dataset, 4000))


def test_pieces_of_a_mini_batch_have_the_same_columns(tmp_path):
    """A failed mini-batch is bisected, and replayed."""
    for kind in [*sorted(WRITERS), "delimited", "json_lines"]:
        dataset = write(kind, pa.table({"x": column("i64", ()), "y": column("s", {1})}), tmp_path / f"{kind}.t", 4, odd=False)
        (cut,) = dataset.keep_columns("y").as_named_input("t").cuts(1 << 20)
        work = json.loads(cut.work)
        reader = Reader()
        pieces = [reader.read(work, [start, start + 2]) for start in range(0, ROWS, 2)]
        pd.testing.assert_frame_equal(pd.concat(pieces, ignore_index=True), reader.read(work))


def test_readers_distinguish_selections_of_one_file(tmp_path):
    """Two inputs of a step may be the same file; decoded groups and open streams are kept."""
    for kind in ("parquet", "arrow stream"):
        WRITERS[kind](pa.table({"x": [1], "y": [2]}), str(tmp_path / "t"), 1)
        dataset, reader = make(kind)(tmp_path / "t"), Reader()
        works = [json.loads(cut.work) for name in ("x", "y", "x") for cut in dataset.keep_columns(name).cuts(1)]
        assert [list(reader.read(work).columns) for work in works] == [["x"], ["y"], ["x"]]
