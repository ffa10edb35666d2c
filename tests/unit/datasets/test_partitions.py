"""Partition keys come from paths, folders and columns; every value is preserved, and none leaves its folder."""

import datetime as dt
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run import FileDataset, InputError, OutputError, TabularDataset
from prefect_parallel_run.child.reading import Reader
from prefect_parallel_run.datasets.files import PartitionFormat
from prefect_parallel_run.datasets.partitions import folder_name, values_in_path

# Before version 3 pandas takes strings that end in a null byte for equal to those without it.
NULL_BYTE = "" if pd.__version__ >= "3" else "\0"
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=NULL_BYTE), max_size=30)


def read(cuts):
    """Partition values and frame of every mini-batch."""
    reader = Reader()
    works = [json.loads(cut.work) for cut in cuts]
    return [(work["partition_key_value"], reader.read(work)) for work in works]


@pytest.mark.parametrize(
    ("text", "path", "values"),
    [
        ("{user}/{season}/{genre}.wav", "/d/ann/winter/jazz.wav", {"user": "ann", "season": "winter", "genre": "jazz"}),
        ("{user}/*.wav", "/d/ann/x.y.wav", {"user": "ann"}),
        ("/{day:yyyy/MM/dd}/f.csv", "/d/2024/02/29/f.csv", {"day": "2024-02-29"}),
        ("{day:yyyyMMdd-HH}.log", "/d/20240131-07.log", {"day": "2024-01-31T07"}),
        ("{day:yyyy/MM/dd}/f.csv", "/d/2023/02/29/f.csv", None),
        ("{a}_{b}.txt", "/d/x_y_z.txt", {"a": "x", "b": "y_z"}),
        ("{{a}}/{b}.txt", "/d/{a}/c.txt", {"b": "c"}),
        (r"\*/{b}.txt", "/d/*/c.txt", {"b": "c"}),
        (r"\*/{b}.txt", "/d/x/c.txt", None),
        ("s{a}/{b}", "/data/sales/1", {"a": "ales", "b": "1"}),
        ("{a}/{b}", "/x", None),
        ("{a}.txt", "/d/a.b/ü ☃.txt", {"a": "ü ☃"}),
        ("{a}/x(1).txt", "/d/k/x(1).txt", {"a": "k"}),
    ],
)
def test_partition_format_matches_the_end_of_a_path(text, path, values):
    """It matches segment by segment."""
    assert PartitionFormat(text).values(path) == values


@pytest.mark.parametrize("text", ["", "plain", "{a", "a}", "{}", "{a b}", "{a}/{a}", "{d:MM/dd}", "{d:}", "{d:yyyy/dd}"])
def test_invalid_formats_are_rejected(text):
    """The dataset's constructor raises."""
    with pytest.raises(ValueError, match="partition_format: "):
        FileDataset.from_files("/x", partition_format=text)


def test_files_are_grouped_by_the_requested_keys(tmp_path):
    """There is one mini-batch per combination, in the order of the paths; every file is in exactly one."""
    for user in ("ann", "bob"):
        for season in ("summer", "winter"):
            for number in range(3):
                if (user, season) != ("bob", "summer"):
                    folder = tmp_path / user / season
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / f"{number}.wav").write_text("x")
    dataset = FileDataset.from_files(tmp_path, partition_format="{user}/{season}/*.wav").as_named_input("songs")
    works = [json.loads(cut.work) for cut in dataset.partition_cuts(["season"], tmp_path)]
    assert [work["partition_key_value"] for work in works] == [{"season": "summer"}, {"season": "winter"}]
    assert [len(work["names"]) for work in works] == [3, 6]
    works = [json.loads(cut.work) for cut in dataset.partition_cuts(["season", "user"], tmp_path)]
    assert [list(work["partition_key_value"].items()) for work in works] == [
        [("season", "summer"), ("user", "ann")],
        [("season", "winter"), ("user", "ann")],
        [("season", "winter"), ("user", "bob")],
    ]
    assert len(list(dataset.cuts(100))) == 1
    with pytest.raises(
        InputError, match=r"partition_keys: expected some of .*, the keys in partition_format of this input, got \['genre'\]"
    ):
        list(dataset.partition_cuts(["genre"], tmp_path))
    (tmp_path / "stray.txt").write_text("")
    with pytest.raises(InputError, match=r"stray.txt: does not match partition_format"):
        list(dataset.partition_cuts(["user"], tmp_path))
    with pytest.raises(InputError, match="has no partition_format"):
        list(FileDataset.from_files(tmp_path).partition_cuts(["user"], tmp_path))


@given(TEXT)
def test_no_value_leaves_its_folder(value):
    """Different values have different folders."""
    name = folder_name("key", value)
    assert "/" not in name
    assert name not in (".", "..")
    assert len(name.encode()) < 255
    if "~" not in name:
        assert values_in_path(f"/root/{name}/f") == [("key", value)]
    assert folder_name("key", value + "x") != name


@given(rows=st.lists(st.tuples(TEXT, st.integers(-5, 5) | st.none()), min_size=1, max_size=20), by_both=st.booleans())
def test_any_value_survives_the_round_trip(rows, by_both, tmp_path_factory):
    """Nulls, spaces, slashes, dots, Unicode; every row in exactly one partition, key columns last."""
    folder = tmp_path_factory.mktemp("t")
    frame = pd.DataFrame({"k": [key for key, _ in rows], "n": range(len(rows)), "m": pd.array([m for _, m in rows], "Int64")})
    frame.to_parquet(folder / "in.parquet")
    keys = ["k", "m"] if by_both else ["k"]
    dataset = TabularDataset.from_parquet_files([folder / "in.parquet"]).as_named_input("t")
    partitioned = dataset.partition_by(keys, folder / "out")
    found = {}
    for values, part in read(partitioned.partition_cuts(keys, folder)):
        assert list(part.columns)[-len(keys) :] == keys
        assert list(values) == keys
        for row in part.to_dict("records"):
            found[row["n"]] = values["k"]
            assert row["k"] == values["k"]
    assert found == {number: key for number, (key, _) in enumerate(rows)}
    inside = (folder / "out").resolve()
    assert all(path.resolve().is_relative_to(inside) for path in inside.rglob("*"))


def test_types_of_keys_survive_the_round_trip(tmp_path):
    """Integers, floats, booleans, dates and nulls."""
    frame = pd.DataFrame(
        {
            "i": [1, 2],
            "f": [0.5, np.nan],
            "b": [True, False],
            "d": pd.to_datetime(["2024-01-31", "2024-02-29 10:00"], format="ISO8601"),
            "t": ["007", None],
            "x": [1.5, 2.5],
        }
    )
    frame.to_parquet(tmp_path / "in.parquet")
    dataset = TabularDataset.from_parquet_files([tmp_path / "in.parquet"]).as_named_input("t")
    keys = ["i", "f", "b", "d", "t"]
    first, second = read(dataset.partition_by(keys, tmp_path / "out").partition_cuts(keys, tmp_path))
    assert first[0] == {"i": 1, "f": 0.5, "b": True, "d": "2024-01-31T00:00:00", "t": "007"}
    assert second[0] == {"i": 2, "f": None, "b": False, "d": "2024-02-29T10:00:00", "t": None}
    assert first[1]["d"][0] == pd.Timestamp("2024-01-31")
    assert first[1].dtypes["i"] == "int64"
    assert first[1]["x"].tolist() == [1.5]


def test_hive_folders_of_other_writers(tmp_path):
    """Values come from folder names, as integers if all of a key are; without partition_keys they are columns."""
    for store, brand in ((1, "a b"), (2, "a b"), (10, "__HIVE_DEFAULT_PARTITION__")):
        folder = tmp_path / "t" / f"store={store}" / f"brand={brand.replace(' ', '%20')}"
        folder.mkdir(parents=True)
        pd.DataFrame({"x": [store, store]}).to_parquet(folder / "part.parquet")
    dataset = TabularDataset.from_parquet_files([tmp_path / "t"]).as_named_input("t")
    found = read(dataset.partition_cuts(["brand"], tmp_path))
    assert [values for values, _ in found] == [{"brand": "a b"}, {"brand": None}]
    assert [part["store"].tolist() for _, part in found] == [[1, 1, 2, 2], [10, 10]]
    reader = Reader()
    frames = [reader.read(json.loads(cut.work)) for cut in dataset.cuts(1 << 20)]
    assert [list(frame.columns) for frame in frames] == [["x", "store", "brand"]] * 3
    with pytest.raises(
        InputError, match=r"partition_keys: expected some of \['store', 'brand'\], the folder keys of this input, got \['x'\]"
    ):
        list(dataset.partition_cuts(["x"], tmp_path))
    (tmp_path / "t" / "store=3").mkdir()
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "t" / "store=3" / "stray.parquet")
    with pytest.raises(InputError, match=r"stray.parquet: is in folders with the keys \['store'\]"):
        list(dataset.cuts(1))


def test_a_plain_table_is_partitioned_by_columns(tmp_path):
    """The copy is written once and reused; an unknown key is reported with the columns."""
    frame = pd.DataFrame({"store": [2, 1, 2, 1], "x": [1, 2, 3, 4]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    dataset = TabularDataset.from_delimited_files([tmp_path / "t.csv"]).as_named_input("t")
    store = tmp_path / "store"
    found = read(dataset.partition_cuts(["store"], store))
    assert [(values, part["x"].tolist()) for values, part in found] == [({"store": 1}, [2, 4]), ({"store": 2}, [1, 3])]
    before = sorted(store.rglob("*.parquet"))
    times = [path.stat().st_mtime_ns for path in before]
    assert len(read(dataset.partition_cuts(["store"], store))) == 2
    assert [path.stat().st_mtime_ns for path in sorted(store.rglob("*.parquet"))] == times
    with pytest.raises(InputError, match=r"brand: is not a column to partition by; the columns are \['store', 'x'\]"):
        list(dataset.partition_cuts(["brand"], store))
    assert sorted(store.rglob("*.parquet")) == before


def test_keys_that_are_all_columns_are_refused(tmp_path):
    """The files of the copy would have no columns, and so no rows."""
    pd.DataFrame({"a": [1, 1], "b": [2, 3]}).to_parquet(tmp_path / "t.parquet")
    dataset = TabularDataset.from_parquet_files(tmp_path / "t.parquet").as_named_input("t")
    with pytest.raises(InputError, match="b, a: are all columns of the table; expected a column beside the partition keys"):
        list(dataset.partition_cuts(["b", "a"], tmp_path / "store"))
    with pytest.raises(InputError, match="a, b: are all columns"):
        dataset.partition_by(["a", "b"], tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_table_without_rows_has_no_partitions(tmp_path):
    """It is copied like others."""
    pd.DataFrame({"a": [], "b": []}).to_parquet(tmp_path / "t.parquet")
    dataset = TabularDataset.from_parquet_files(tmp_path / "t.parquet").as_named_input("t")
    assert list(dataset.partition_cuts(["a"], tmp_path / "store")) == []
    assert list(dataset.partition_cuts(["a"], tmp_path / "store")) == []


def test_many_rows_in_several_files_keep_their_order(tmp_path, monkeypatch):
    """Rows may be written before all are read."""
    monkeypatch.setattr("prefect_parallel_run.datasets.partitions._BUFFER", 2_000)
    monkeypatch.setattr("prefect_parallel_run.datasets.tabular._PARTITIONING_BYTES", 1_000)
    frame = pd.DataFrame({"k": [i % 3 for i in range(2_000)], "n": range(2_000)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    dataset = TabularDataset.from_delimited_files([tmp_path / "t.csv"]).as_named_input("t")
    found = read(dataset.partition_cuts(["k"], tmp_path / "store"))
    assert len(list((tmp_path / "store").rglob("*.parquet"))) > 6
    for values, part in found:
        assert part["n"].tolist() == [n for n in range(2_000) if n % 3 == values["k"]]


def test_a_target_must_be_empty(tmp_path):
    """It stays unchanged; a failure leaves no files."""
    pd.DataFrame({"k": [1]}).to_parquet(tmp_path / "in.parquet")
    dataset = TabularDataset.from_parquet_files([tmp_path / "in.parquet"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(OutputError, match="already exists"):
        dataset.partition_by(["k"], tmp_path / "out")
    with pytest.raises(InputError, match="no: is not a column"):
        dataset.partition_by(["no"], tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out"]


def test_files_of_incompatible_types_cannot_be_partitioned(tmp_path):
    """The error names the column; no files remain."""
    (tmp_path / "a.csv").write_text("v,k\n1,1\n")
    (tmp_path / "b.csv").write_text("v,k\nx,1\n")
    with pytest.raises(InputError, match=r"different types in one column.*Field v has incompatible types"):
        TabularDataset.from_delimited_files(tmp_path / "*.csv").partition_by(["k"], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]


KINDS = [
    (pa.decimal128(10, 2), Decimal("1.10"), Decimal("12345.10")),
    (pa.date32(), None, dt.date(2024, 1, 31)),
    (pa.list_(pa.string()), [], ["x"]),
    (pa.struct([("a", pa.int64()), ("b", pa.string())]), {"a": 1, "b": None}, {"a": 1, "b": "x"}),
    (pa.binary(), None, b"x"),
    (pa.time64("us"), None, dt.time(1, 2, 3)),
    (pa.map_(pa.string(), pa.int64()), [], [("x", 2**53 + 1)]),
    (pa.int64(), 2**53 + 1, None),
    (pa.timestamp("us", "UTC"), None, None),
    (pa.null(), None, None),
]


@pytest.mark.parametrize("held", [1, 1 << 20])
@pytest.mark.parametrize(("kind", "first", "second"), KINDS, ids=str)
def test_every_arrow_type_is_partitioned_unchanged(tmp_path, monkeypatch, held, kind, first, second):
    """The type comes from the file, not from its rows."""
    monkeypatch.setattr("prefect_parallel_run.datasets.partitions._BUFFER", held)
    pq.write_table(pa.table({"k": ["a", "b"], "v": pa.array([first, second], kind)}), tmp_path / "t.parquet")
    TabularDataset.from_parquet_files([tmp_path / "t.parquet"]).partition_by(["k"], tmp_path / "out")
    columns = [pq.ParquetFile(path).read().column("v") for path in sorted((tmp_path / "out").rglob("*.parquet"))]
    assert columns == [pa.chunked_array([pa.array([value], kind)]) for value in (first, second)]


@pytest.mark.parametrize("held", [1, 1 << 20])
def test_types_of_two_files_are_unified_in_all_partitions(tmp_path, monkeypatch, held):
    """Partitions written before the second file are rewritten; loss is an error."""
    monkeypatch.setattr("prefect_parallel_run.datasets.partitions._BUFFER", held)
    pq.write_table(pa.table({"k": ["a"], "v": pa.array([1], pa.int32())}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"k": ["b"], "v": [1.5]}), tmp_path / "2.parquet")
    dataset = TabularDataset.from_parquet_files(tmp_path / "*.parquet")
    dataset.partition_by(["k"], tmp_path / "out")
    tables = [pq.ParquetFile(path).read() for path in sorted((tmp_path / "out").rglob("*.parquet"))]
    assert [table.column("v").to_pylist() for table in tables] == [[1.0], [1.5]]
    assert {table.schema.field("v").type for table in tables} == {pa.float64()}
    pq.write_table(pa.table({"k": ["a"], "v": [2**53 + 1]}), tmp_path / "1.parquet")
    with pytest.raises(InputError, match="different types in one column"):
        dataset.partition_by(["k"], tmp_path / "new")


def test_a_key_column_of_lists_is_rejected(tmp_path):
    """The error names it."""
    pq.write_table(pa.table({"k": [["a"]], "v": [1]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="k: cannot be used to partition"):
        TabularDataset.from_parquet_files([tmp_path / "t.parquet"]).partition_by(["k"], tmp_path / "out")
