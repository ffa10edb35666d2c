"""Delta tables that deltalake wrote, and tables whose log says what this package cannot honour."""

import datetime as dt
import itertools
import json
import struct
import sys
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_parallel_run import InputError, TabularDataset
from prefect_parallel_run.child.reading import Reader
from prefect_parallel_run.planning.inputs import normalize_inputs
from prefect_parallel_run.planning.planner import inputs_sha256

UTC = dt.timezone.utc
DAY, NOON = dt.date(2020, 2, 29), dt.datetime.fromisoformat("2020-02-29 12:00:00.123456")
FAR = dt.datetime.fromisoformat("9999-12-31")
#: Columns of every type that a Delta table can be partitioned by, each with values that are hard to keep.
PARTITIONS = {
    "text": pa.array(["a/b", "c d%é=&", None, "..", "007", "%2F", "a\nb", "__HIVE"], pa.string()),
    "day": pa.array([DAY, None, dt.date(9999, 12, 31), dt.date(1, 1, 1), DAY, DAY, None, DAY], pa.date32()),
    "time": pa.array([NOON.replace(tzinfo=UTC), None, *[dt.datetime(1960, 1, 1, tzinfo=UTC)] * 6], pa.timestamp("us", "UTC")),
    "plain time": pa.array([NOON, None, *[FAR] * 6], pa.timestamp("us")),
    "price": pa.array([Decimal("1.50"), None, *[Decimal("12345678.90")] * 6], pa.decimal128(10, 2)),
    "flag": pa.array([True, False, None, *[True] * 5], pa.bool_()),
    "real": pa.array([1.5, None, -0.0, 1e20, float("inf"), 2.0, 2.0, 0.1], pa.float64()),
    "small": pa.array([1, None, -128, 127, 0, 0, 0, 0], pa.int8()),
    "large": pa.array([2**53 + 1, None, -(2**63), 2**63 - 1, 0, 0, 0, 0], pa.int64()),
}


def rows_of(dataset, size=1 << 20):
    """What run() gets in all mini-batches, one after the other."""
    reader = Reader()
    frames = [reader.read(json.loads(batch.work)) for batch in dataset.cuts(size, warn=lambda _: None)]
    return frames, pd.concat(frames, ignore_index=True) if frames else None


def by_path(path, version=None):
    """What deltalake and pandas give for a table, its files in the order of their paths: the yardstick."""
    table = DeltaTable(path, version=version)
    files = table.to_pyarrow_dataset().get_fragments()
    schema = pa.schema(table.schema().to_arrow())
    decoded = sorted((uri, number) for number, uri in enumerate(table.file_uris()))
    tables = [fragment.to_table(schema=schema) for fragment in files]
    return [tables[number].to_pandas() for _, number in decoded]


def check_equal(frames, expected):
    assert len(frames) == len(expected)
    for frame, other in zip(frames, expected, strict=True):
        pd.testing.assert_frame_equal(frame, other)


@pytest.fixture
def table(tmp_path):
    """Path of a table with three versions: two rows, two more, the first two deleted."""
    path = tmp_path / "table"
    write_deltalake(path, pa.table({"n": [1, 2], "s": ["a", None]}))
    write_deltalake(path, pa.table({"n": [3, 4], "s": ["c", "d"]}), mode="append")
    DeltaTable(path).delete("n < 3")
    return path


@pytest.mark.parametrize("name", PARTITIONS)
def test_partition_columns_have_the_values_of_the_log(tmp_path, name):
    """In the table's place, with its type, like deltalake gives them to pandas."""
    rows = pa.table({"n": range(8), name: PARTITIONS[name], "s": list("abcdefgh")})
    write_deltalake(tmp_path / "t", rows, partition_by=[name])
    frames, whole = rows_of(TabularDataset.from_delta_table(tmp_path / "t"))
    check_equal(frames, by_path(tmp_path / "t"))
    expected = DeltaTable(tmp_path / "t").to_pandas().sort_values("n", ignore_index=True)
    pd.testing.assert_frame_equal(whole.sort_values("n", ignore_index=True), expected)


def test_a_version_has_exactly_its_files(table):
    """Deleted rows are those of other versions."""
    for version, numbers in enumerate([[1, 2], [1, 2, 3, 4], [3, 4]]):
        assert sorted(rows_of(TabularDataset.from_delta_table(table, version))[1]["n"]) == numbers
    assert sorted(rows_of(TabularDataset.from_delta_table(table))[1]["n"]) == [3, 4]


def test_a_missing_version_is_an_error_with_the_newest_ones(table):
    """Whether it was never written, or its part of the log has expired."""
    with pytest.raises(InputError, match=r"/table: lacks version 3; its newest versions are: 2, 1, 0$"):
        TabularDataset.from_delta_table(table, 3).listing()
    DeltaTable(table).create_checkpoint()
    (table / "_delta_log" / f"{0:020}.json").unlink()
    with pytest.raises(InputError, match=r"/table: version 0 .*; its log may have expired; its newest versions are: 2, 1$"):
        TabularDataset.from_delta_table(table, 0).listing()


def test_a_dataset_is_frozen_before_it_is_planned(table):
    """Two plans around a commit are equal; a new dataset has the new version, and other contents."""
    (frozen,) = normalize_inputs([TabularDataset.from_delta_table(table)])
    assert frozen.version == 2
    before = inputs_sha256([frozen])
    write_deltalake(table, pa.table({"n": [5], "s": ["e"]}), mode="append")
    assert inputs_sha256([frozen]) == before
    (again,) = normalize_inputs([TabularDataset.from_delta_table(table)])
    assert (again.version, inputs_sha256([again]) == before) == (3, False)
    assert TabularDataset.model_validate(frozen.model_dump()) == frozen


def test_files_that_lack_a_column_have_nulls(tmp_path):
    """A column that was added later, of any type; a file of the later version holds its values."""
    added = {name: values for name, values in PARTITIONS.items() if name not in ("real",)}
    added["list"] = pa.array([[1], None, []] + [[2]] * 5, pa.list_(pa.int64()))
    added["pair"] = pa.array([{"a": 1, "b": "x"}, None] * 4, pa.struct([("a", pa.int64()), ("b", pa.string())]))
    write_deltalake(tmp_path / "t", pa.table({"n": [1, 2]}))
    write_deltalake(tmp_path / "t", pa.table({"n": range(8), **added}), mode="append", schema_mode="merge")
    check_equal(rows_of(TabularDataset.from_delta_table(tmp_path / "t"))[0], by_path(tmp_path / "t"))


def test_columns_are_selected_wherever_they_are_stored(tmp_path):
    """In the file, in the log, in neither; bytes are counted by the stored ones."""
    write_deltalake(tmp_path / "t", pa.table({"k": ["x", "y"], "n": [1, 2], "s": ["a", "b"]}), partition_by=["k"])
    late = pa.table({"k": ["z"], "n": [3], "s": ["c"], "late": [7]})
    write_deltalake(tmp_path / "t", late, mode="append", schema_mode="merge")
    dataset = TabularDataset.from_delta_table(tmp_path / "t")
    whole = rows_of(dataset)[1]
    for names in (["k"], ["late"], ["s", "k"], ["n"], ["late", "k", "n"]):
        for selected in (dataset.keep_columns(names), dataset.drop_columns([name for name in whole if name not in names])):
            frames, _ = rows_of(selected)
            assert [list(frame) for frame in frames] == [[name for name in whole if name in names]] * 3
            pd.testing.assert_frame_equal(pd.concat(frames, ignore_index=True)[names], whole[names])
    with pytest.raises(InputError, match="lacks the column 'lat', which keep_columns names; did you mean late"):
        rows_of(dataset.keep_columns(["lat"]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.lists(
        st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=9), min_size=1, max_size=6
    ),
    size=st.integers(1, 500),
    numbers=st.lists(st.none() | st.integers(-(2**40), 2**40), min_size=1, max_size=20),
)
def test_every_row_is_read_once_with_its_values(tmp_path_factory, keys, size, numbers):
    """With any partition values and mini-batch size."""
    path = tmp_path_factory.mktemp("delta") / "t"
    rows = pa.table(
        {
            "n": pa.array(numbers, pa.int64()),
            "k": pa.array([keys[place % len(keys)] for place in range(len(numbers))], pa.string()),
            "id": range(len(numbers)),
        }
    )
    write_deltalake(path, rows, partition_by=["k"])
    _, whole = rows_of(TabularDataset.from_delta_table(path), size)
    expected = DeltaTable(path).to_pandas().sort_values("id", ignore_index=True)
    whole = whole.sort_values("id", ignore_index=True)
    assert list(whole) == list(expected)
    pd.testing.assert_frame_equal(whole, expected)


def test_partition_keys_are_the_partition_columns(tmp_path):
    """One mini-batch per combination, in JSON's types; other columns are refused."""
    rows = pa.table({"n": [1, 2, 3, 4], "day": [DAY, DAY, None, DAY], "k": ["a/b", "c", "c", "a/b"]})
    write_deltalake(tmp_path / "t", rows, partition_by=["day", "k"])
    write_deltalake(tmp_path / "t", rows, mode="append")
    dataset = TabularDataset.from_delta_table(tmp_path / "t")
    reader, found = Reader(), {}
    for batch in dataset.partition_cuts(["k", "day"], tmp_path / "copies"):
        work = json.loads(batch.work)
        found[tuple(work["partition_key_value"].items())] = sorted(reader.read(work)["n"])
    day = ("day", "2020-02-29")
    assert found == {
        (("k", "a/b"), day): [1, 1, 4, 4],
        (("k", "c"), day): [2, 2],
        (("k", "c"), ("day", None)): [3, 3],
    }
    with pytest.raises(InputError, match=r"expected some of \['day', 'k'\], the partition columns of this input, got \['n'\]"):
        list(dataset.partition_cuts(["n"], tmp_path / "copies"))


def test_a_table_without_partitions_is_copied_for_its_keys(table, tmp_path):
    """Like other tables."""
    works = [json.loads(batch.work) for batch in TabularDataset.from_delta_table(table).partition_cuts(["s"], tmp_path / "c")]
    assert [work["partition_key_value"] for work in works] == [{"s": "c"}, {"s": "d"}]


def test_a_checkpoint_changes_nothing(table):
    """Without the commits before it, as a clean-up of the log leaves the table."""
    expected = rows_of(TabularDataset.from_delta_table(table))[1]
    DeltaTable(table).create_checkpoint()
    for commit in (0, 1):
        (table / "_delta_log" / f"{commit:020}.json").unlink()
    pd.testing.assert_frame_equal(rows_of(TabularDataset.from_delta_table(table))[1], expected)


def test_an_empty_table_has_no_mini_batches(tmp_path):
    """With and without partitions."""
    for name, keys in (("a", []), ("b", ["k"])):
        write_deltalake(
            tmp_path / name, pa.table({"k": pa.array([], pa.string()), "n": pa.array([], pa.int64())}), partition_by=keys
        )
        assert list(TabularDataset.from_delta_table(tmp_path / name).cuts(1 << 20)) == []


def test_a_vacuumed_version_is_an_error(table):
    """It names the file, the version and what to do."""
    DeltaTable(table).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(
        InputError, match=r"\.parquet: is a file of version 1 of the Delta table, but cannot be found: a vacuum"
    ):
        rows_of(TabularDataset.from_delta_table(table, 1))


def test_timestamps_of_spark_are_those_of_the_table(tmp_path):
    """INT96 has neither a time zone nor the table's unit."""
    write_deltalake(tmp_path / "t", pa.table({"t": pa.array([NOON.replace(tzinfo=UTC), None], pa.timestamp("us", "UTC"))}))
    (file,) = map(Path, DeltaTable(tmp_path / "t").file_uris())
    for last in (NOON, FAR):
        pq.write_table(pa.table({"t": pa.array([last, None], pa.timestamp("us"))}), file, use_deprecated_int96_timestamps=True)
        (frame,), _ = rows_of(TabularDataset.from_delta_table(tmp_path / "t"))
        assert frame["t"].dtype == "datetime64[us, UTC]"
        assert list(frame["t"]) == [pd.Timestamp(last, tz="UTC"), pd.NaT]


def test_metadata_of_pandas_does_not_change_the_types(tmp_path):
    """As deltalake reads the files: the table's schema counts."""
    write_deltalake(tmp_path / "t", pa.table({"n": [1, None]}))
    (file,) = map(Path, DeltaTable(tmp_path / "t").file_uris())
    pd.DataFrame({"n": pd.array([1, None], "Int64")}).to_parquet(file)
    rewrite_log(tmp_path / "t", add=lambda add: add.update(size=file.stat().st_size))
    check_equal(rows_of(TabularDataset.from_delta_table(tmp_path / "t"))[0], by_path(tmp_path / "t"))


def rewrite_log(path, **changes):
    """Change entries of the first commit: ``protocol``, ``metaData`` and ``add`` by functions."""
    log = path / "_delta_log" / f"{0:020}.json"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    for entry in entries:
        for name in entry.keys() & changes.keys():
            changes[name](entry[name])
    log.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))


def needs(*features):
    def change(protocol):
        protocol.update(minReaderVersion=3, minWriterVersion=7, readerFeatures=features, writerFeatures=features)

    return change


def maps(mode):
    def change(metadata):
        schema = json.loads(metadata["schemaString"])
        for number, field in enumerate(schema["fields"]):
            field["metadata"] = {"delta.columnMapping.id": number + 1, "delta.columnMapping.physicalName": f"col-{number}"}
        metadata.update(schemaString=json.dumps(schema), configuration={"delta.columnMapping.mode": mode})

    return change


def deletion_vector(row):
    """An inline deletion vector of one row, as the Delta protocol describes it: a 64-bit Roaring bitmap in Z85."""
    bitmap = struct.pack("<IIHHIH", 12346, 1, 0, 0, 16, row)
    data = struct.pack("<iQI", 1681511377, 1, 0) + bitmap
    data += b"\0" * (-len(data) % 4)
    alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    text = ""
    for (number,) in struct.iter_unpack(">I", data):
        text += "".join(alphabet[number // 85**power % 85] for power in (4, 3, 2, 1, 0))
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(data), "cardinality": 1}


REFUSED = {
    "deletion vectors": (
        {"protocol": needs("deletionVectors"), "add": lambda add: add.update(deletionVector=deletion_vector(1))},
        r"has files with deletion vectors .*: run REORG TABLE … APPLY \(PURGE\), and read the version",
    ),
    "column mapping by name": (
        {"protocol": lambda protocol: protocol.update(minReaderVersion=2, minWriterVersion=5), "metaData": maps("name")},
        r"has delta.columnMapping.mode 'name'; expected a table without column mapping: drop it, or write its rows to a new",
    ),
    "column mapping by id": (
        {"protocol": needs("columnMapping"), "metaData": maps("id")},
        r"has delta.columnMapping.mode 'id'; expected a table without column mapping",
    ),
    "type widening": (
        {"protocol": needs("typeWidening", "timestampNtz")},
        r"needs the reader features typeWidening; expected only .*: ALTER TABLE … DROP FEATURE typeWidening, or write",
    ),
    "an unknown feature": ({"protocol": needs("foo")}, r"cannot be read as a Delta table: .*foo"),
    "a newer protocol": (
        {"protocol": lambda protocol: protocol.update(minReaderVersion=4)},
        r"cannot be read as a Delta table: .*version 4",
    ),
    "a shallow clone": (
        {"add": lambda add: add.update(path="file:///elsewhere/a.parquet")},
        r"has files outside of its folder \(a shallow clone\), such as",
    ),
    "a path that leaves the table": (
        {"add": lambda add: add.update(path="x/%2E%2E/../a.parquet")},
        "has files outside of its folder",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_needs_another_reader_is_refused(tmp_path, name):
    """With what to do."""
    changes, message = REFUSED[name]
    write_deltalake(tmp_path / "t", pa.table({"n": [1, 2, 3]}))
    rewrite_log(tmp_path / "t", **changes)
    with pytest.raises(InputError, match=f"/t: .*{message}"):
        TabularDataset.from_delta_table(tmp_path / "t").listing()


@pytest.mark.parametrize("features", [["deletionVectors"], ["columnMapping"], ["v2Checkpoint", "vacuumProtocolCheck"]])
def test_features_that_a_version_does_not_use_are_accepted(tmp_path, features):
    """A table after REORG TABLE … APPLY (PURGE) has the feature, but no deletion vectors."""
    write_deltalake(tmp_path / "t", pa.table({"n": [1, 2, 3]}))
    rewrite_log(tmp_path / "t", protocol=needs(*features))
    assert list(rows_of(TabularDataset.from_delta_table(tmp_path / "t"))[1]["n"]) == [1, 2, 3]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.table({"N": [1]}), r"has the column 'N', which the table calls 'n'"),
        (
            pa.table({"n": pa.array([{"a": 1}])}),
            r"has struct<a: int64> in column 'n'; expected the table's type int64: drop the",
        ),
    ],
    ids=["case", "type"],
)
def test_a_file_that_contradicts_the_table_is_an_error(tmp_path, column, message):
    """Nulls or converted values would be wrong."""
    write_deltalake(tmp_path / "t", pa.table({"n": [1]}))
    (file,) = map(Path, DeltaTable(tmp_path / "t").file_uris())
    pq.write_table(column, file)
    with pytest.raises(InputError, match=message):
        rows_of(TabularDataset.from_delta_table(tmp_path / "t"))


def test_what_is_not_a_delta_table_is_an_error(tmp_path):
    """The error names the path and what is expected there, with and without a version."""
    (tmp_path / "file").touch()
    for name, version in itertools.product((".", "none", "file"), (None, 3)):
        message = rf"{tmp_path.name}(/{name})?: the newest version cannot be read as a Delta table: .*; expected a folder that"
        with pytest.raises(InputError, match=message):
            TabularDataset.from_delta_table(tmp_path / name, version).listing()
    with pytest.raises(InputError, match=r"memory://x/y: the newest version cannot be read as a Delta table: [ -~↳]+$"):
        TabularDataset.from_delta_table("memory://x/y").frozen()


def test_without_deltalake_the_error_names_the_extra(table, monkeypatch):
    """The package does not depend on it."""
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(InputError, match=r"pip install 'prefect-parallel-run\[delta\]'"):
        TabularDataset.from_delta_table(table).frozen()


def test_a_file_may_belong_to_two_versions_of_a_mini_batch_sequence(tmp_path):
    """A process that has read it for one version reads it with the columns of the other one."""
    write_deltalake(tmp_path / "t", pa.table({"n": [1]}))
    write_deltalake(tmp_path / "t", pa.table({"n": [2], "late": [3]}), mode="append", schema_mode="merge")
    first, second = (TabularDataset.from_delta_table(tmp_path / "t", version) for version in (0, 1))
    reader = Reader()
    works = [json.loads(batch.work) for dataset in (first, second) for batch in dataset.cuts(1 << 20)]
    assert sorted(tuple(reader.read(work)) for work in works) == [("n",), ("n", "late"), ("n", "late")]


@pytest.mark.parametrize("name", ["a b", "50%", "a#b", "a?b", "é"])
def test_names_of_folders_are_taken_literally(table, tmp_path, name):
    """A path is not a URL: percent signs, blanks and number signs belong to it."""
    table.rename(tmp_path / name)
    assert sorted(rows_of(TabularDataset.from_delta_table(tmp_path / name))[1]["n"]) == [3, 4]


@pytest.mark.parametrize(
    "name", ["{folder}/a%20b", "{folder}/a\\b", "s3://b/a%20b", "s3://b/a?b", "s3://b/a#b"], ids=lambda name: name[-5:]
)
def test_a_path_that_deltalake_changes_is_refused(table, tmp_path, name):
    """It would read the log of the table in "a b" together with the files in "a%20b"."""
    for folder in ("a b", "a"):
        write_deltalake(tmp_path / folder, pa.table({"n": [5]}))
    with pytest.raises(InputError, match=r": contains a percent-encoded character, .* log of another folder: rename it"):
        TabularDataset.from_delta_table(name.format(folder=tmp_path)).frozen()


def test_partition_columns_of_bytes_are_refused(tmp_path):
    r"""The log has strings of them, which deltalake returns encoded: b"\\u00FF" in place of b"\xff"."""
    write_deltalake(tmp_path / "t", pa.table({"n": [1], "k": [b"\xff"]}), partition_by=["k"])
    with pytest.raises(InputError, match=r"/t: is partitioned by 'k', which has bytes; expected .* or write its rows to a new"):
        TabularDataset.from_delta_table(tmp_path / "t").listing()
