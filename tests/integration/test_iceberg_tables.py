"""Iceberg tables that pyiceberg wrote, compared with what it reads; and tables whose rows need another reader."""

import datetime as dt
import json
import sys
import traceback
import uuid
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg import catalog as catalogs
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.types import DoubleType, LongType, NestedField, StringType
from pyiceberg.utils.config import Config

from prefect_parallel_run import InputError, TabularDataset
from prefect_parallel_run.child.reading import Reader
from prefect_parallel_run.planning.inputs import normalize_inputs
from prefect_parallel_run.planning.planner import inputs_sha256

UTC = dt.timezone.utc
DAY, NOON = dt.date(2020, 2, 29), dt.datetime.fromisoformat("2020-02-29 12:00:00.123456")
COLUMNS = {
    "text": pa.array(["a/b", "c d%é=&", None, "..", "007", "%2F", "a\nb", "__HIVE"], pa.string()),
    "day": pa.array([DAY, None, dt.date(9999, 12, 31), dt.date(1, 1, 1), DAY, DAY, None, DAY], pa.date32()),
    "instant": pa.array(
        [NOON.replace(tzinfo=UTC), None, *[dt.datetime(1960, 1, 1, tzinfo=UTC)] * 6], pa.timestamp("us", "UTC")
    ),
    "local": pa.array([NOON, None, *[dt.datetime.fromisoformat("9999-12-31")] * 6], pa.timestamp("us")),
    "time": pa.array([dt.time(1, 2, 3, 4), None, *[dt.time(23)] * 6], pa.time64("us")),
    "price": pa.array([Decimal("1.50"), None, *[Decimal("12345678.90")] * 6], pa.decimal128(10, 2)),
    "flag": pa.array([True, False, None, *[True] * 5], pa.bool_()),
    # pyiceberg stores partition values of doubles as 32-bit floats: these stay as they are.
    "real": pa.array([1.5, None, -0.0, 2.0**70, float("inf"), 2.0, 2.0, 0.125], pa.float64()),
    "small": pa.array([1, None, -128, 127, 0, 0, 0, 0], pa.int32()),
    "large": pa.array([2**53 + 1, None, -(2**63), 2**63 - 1, 0, 0, 0, 0], pa.int64()),
    "raw": pa.array([b"\xff", None, *[b""] * 6], pa.binary()),
}
NESTED = {
    "list": pa.array([[1], None, []] + [[2]] * 5, pa.list_(pa.int64())),
    "pair": pa.array([{"a": 1, "b": "x"}, None] * 4, pa.struct([("a", pa.int64()), ("b", pa.string())])),
    "map": pa.array([[("k", 1)], None] * 4, pa.map_(pa.string(), pa.int32())),
}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """The catalog ``local`` of pyiceberg's configuration: an SQLite file."""
    folder = tmp_path_factory.mktemp("iceberg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYICEBERG_CATALOG__LOCAL__URI", f"sqlite:///{folder}/catalog.db")
        patch.setenv("PYICEBERG_CATALOG__LOCAL__WAREHOUSE", f"file://{folder}/warehouse")
        patch.setenv("PYICEBERG_CATALOG__WRONG__URI", "mysql://user:secret@host/db")
        patch.setattr(catalogs, "_ENV_CONFIG", Config())  # it was read when pyiceberg was imported
        with catalogs.load_catalog("local") as local:
            yield local


class Table:
    """A table of a name that no other test uses."""

    def __init__(self, catalog, rows, **options):
        self.catalog, self.name = catalog, f"n{uuid.uuid4().hex}.orders"
        catalog.create_namespace(self.name.partition(".")[0])
        self.table = catalog.create_table(self.name, rows.schema, **options)

    def append(self, rows):
        self.table.append(rows)
        return self.table.current_snapshot().snapshot_id

    def evolve(self, change):
        with self.table.update_schema(allow_incompatible_changes=True) as update:
            change(update)

    def partition_by(self, *names):
        with self.table.update_spec() as update:
            for name in names:
                update.add_identity(name)

    def files(self):
        return sorted(Path(task.file.file_path.removeprefix("file://")) for task in self.table.scan().plan_files())

    def dataset(self, snapshot_id=None):
        return TabularDataset.from_iceberg_table(f"local.{self.name}", snapshot_id)


@pytest.fixture
def create(catalog):
    def created(rows, *, partition_by=(), **options):
        table = Table(catalog, rows, **options)
        if partition_by:
            table.partition_by(*partition_by)
        table.append(rows)
        return table

    return created


def rows_of(dataset, size=1 << 20):
    """What run() gets in all mini-batches, one after the other."""
    reader = Reader()
    return [reader.read(json.loads(batch.work)) for batch in dataset.cuts(size, warn=lambda _: None)]


def values_of(frame):
    """The rows as plain values, without order; numbers of a column compare equal in all types, NaN and None too."""
    frame = frame.astype(object).where(frame.notna(), None)
    return sorted((tuple(map(repr, row)) for row in frame.itertuples(index=False)), key=str)


def check_equal(dataset, scan, size=1 << 20):
    """The rows and the columns are those that pyiceberg reads."""
    expected = scan.to_arrow().to_pandas(integer_object_nulls=True)
    frames = rows_of(dataset, size)
    for frame in frames:
        assert list(frame) == list(expected)
    found = [pair for frame in frames for pair in values_of(_with_integers(frame, expected))]
    assert sorted(found, key=str) == values_of(expected)


def _with_integers(frame, expected):
    """Integers that became floats, since the file has a null, are integers again; they are small in these tests."""
    for name in expected:
        if frame[name].dtype.kind == "f" and expected[name].dtype.kind in "Oi":
            frame[name] = frame[name].astype("Int64")
    return frame


@pytest.mark.parametrize("name", [*COLUMNS, *NESTED])
def test_columns_have_the_types_and_values_of_pyiceberg(create, name):
    """In a file of its own."""
    table = create(pa.table({"id": range(8), name: (COLUMNS | NESTED)[name]}))
    (frame,) = rows_of(table.dataset())
    expected = table.table.scan().to_pandas()
    pd.testing.assert_frame_equal(frame, expected, check_column_type=False)


@pytest.mark.parametrize("name", COLUMNS)
def test_partition_columns_keep_their_values(create, name):
    """Also where a file lacks the column, as files of hive tables do that were added to the table."""
    rows = pa.table({"id": range(8), name: COLUMNS[name], "s": list("abcdefgh")})
    table = create(rows, partition_by=[name])
    check_equal(table.dataset(), table.table.scan())
    for file in table.files():
        stored = pq.read_table(file, partitioning=None)
        pq.write_table(stored.drop_columns([name]), file)
    check_equal(table.dataset(), table.table.scan())
    values = rows_of(table.dataset().keep_columns([name]))
    assert values_of(pd.concat([frame.astype(object) for frame in values])) == values_of(
        rows.select([name]).to_pandas(integer_object_nulls=True)
    )


OPERATIONS = ("append", "add", "drop", "rename", "swap", "widen", "move")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(operations=st.lists(st.sampled_from(OPERATIONS), min_size=2, max_size=8), size=st.integers(1, 3000), data=st.data())
def test_every_row_has_the_columns_of_its_snapshot(create, operations, size, data):
    """Columns were added, dropped, renamed, moved and widened between the files; all snapshots are read."""
    table = create(pa.table({"a": pa.array([1, None], pa.int32()), "b": ["x", None], "c": pa.array([0.5, None], pa.float32())}))
    for number, operation in enumerate(operations):
        evolve(table, operation, number, data)
    check_equal(table.dataset(), table.table.scan(), size)
    for snapshot in table.table.snapshots():
        check_equal(table.dataset(snapshot.snapshot_id), table.table.scan(snapshot_id=snapshot.snapshot_id), size)


def evolve(table, operation, number, data):
    columns = {field.name: field.field_type for field in table.table.schema().fields}
    names = sorted(columns)
    chosen = data.draw(st.sampled_from(names))
    if operation == "append":
        values = {"int": 7, "long": 2**40, "string": "s", "float": 0.25, "double": 0.1}
        row = {name: data.draw(st.sampled_from([values[str(kind)], None])) for name, kind in columns.items()}
        table.append(pa.Table.from_pylist([row], table.table.schema().as_arrow()))
    elif operation == "add":
        new = next(name for name in (*"abc", f"n{number}") if name not in columns)
        table.evolve(lambda update: update.add_column(new, data.draw(st.sampled_from([LongType(), StringType()]))))
    elif operation == "drop" and len(names) > 1:
        table.evolve(lambda update: update.delete_column(chosen))
    elif operation == "rename":
        table.evolve(lambda update: update.rename_column(chosen, f"r{number}"))
    elif operation == "swap" and len(names) > 1:
        first, second = names[:2]
        for old, new in ((first, "tmp"), (second, first), ("tmp", second)):
            table.evolve(lambda update, old=old, new=new: update.rename_column(old, new))
    elif operation == "widen" and str(columns[chosen]) in ("int", "float"):
        wide = LongType() if str(columns[chosen]) == "int" else DoubleType()
        table.evolve(lambda update: update.update_column(chosen, wide))
    elif operation == "move":
        table.evolve(lambda update: update.move_first(chosen))


def test_columns_are_selected_by_their_names_in_the_table(create):
    """Of files that call them otherwise, have others of these names, or none."""
    table = create(pa.table({"a": [1, 2], "b": ["x", "y"]}))
    table.evolve(lambda update: update.rename_column("a", "c"))
    table.evolve(lambda update: update.add_column("a", StringType()))
    table.append(pa.table({"c": [3], "b": ["z"], "a": ["new"]}).select(["c", "b", "a"]))
    dataset = table.dataset()
    for names in (["a"], ["c"], ["b", "c"], ["a", "c"], ["a", "b", "c"]):
        expected = table.table.scan(selected_fields=names)
        others = [name for name in "abc" if name not in names]
        check_equal(dataset.keep_columns(names), expected)
        check_equal(dataset.drop_columns(others) if others else dataset, expected)
    with pytest.raises(InputError, match="lacks the column 'd', which keep_columns names"):
        rows_of(dataset.keep_columns(["d"]))


def test_a_snapshot_has_exactly_its_rows(create):
    """With its columns; an unknown one is an error that names the newest ones."""
    table = create(pa.table({"n": [1, 2]}))
    first = table.table.current_snapshot().snapshot_id
    second = table.append(pa.table({"n": [3]}))
    table.table.delete("n < 3")
    table.evolve(lambda update: update.rename_column("n", "m"))
    assert [sorted(pd.concat(rows_of(table.dataset(known)))["n"]) for known in (first, second)] == [[1, 2], [1, 2, 3]]
    assert [list(frame["m"]) for frame in rows_of(table.dataset())] == [[3]]
    with pytest.raises(
        InputError, match=rf"orders: lacks snapshot 7, which may .*; its newest snapshots are: .*{second}, \d+$"
    ):
        table.dataset(7).listing()
    with pytest.raises(InputError, match="lacks snapshot 0"):
        table.dataset(0).listing()


def test_a_dataset_is_frozen_before_it_is_planned(create):
    """Its rows and columns stay; a new dataset has the new ones, and other contents."""
    table = create(pa.table({"n": [1]}))
    (frozen,) = normalize_inputs([table.dataset()])
    assert frozen.version == table.table.current_snapshot().snapshot_id
    before = inputs_sha256([frozen])
    table.append(pa.table({"n": [2]}))
    table.evolve(lambda update: update.rename_column("n", "m"))
    assert inputs_sha256([frozen]) == before
    assert [list(frame) for frame in rows_of(frozen)] == [["n"]]
    (again,) = normalize_inputs([table.dataset()])
    assert sorted(pd.concat(rows_of(again))["m"]) == [1, 2]
    assert inputs_sha256([again]) != before
    assert TabularDataset.model_validate(frozen.model_dump()) == frozen


def test_the_newest_columns_count_without_a_new_snapshot(create):
    """As in a scan of the table: a change of the schema adds no snapshot."""
    table = create(pa.table({"n": [1]}))
    table.evolve(lambda update: update.rename_column("n", "m"))
    check_equal(table.dataset(), table.table.scan())


def test_a_table_that_was_never_written_has_no_mini_batches(catalog):
    """Also after the first commit, for a dataset that was frozen before it."""
    table = Table(catalog, pa.table({"n": [1]}))
    (frozen,) = normalize_inputs([table.dataset()])
    assert rows_of(frozen) == []
    table.append(pa.table({"n": [1]}))
    assert rows_of(frozen) == []
    assert len(rows_of(table.dataset())) == 1


def test_partition_keys_are_the_identity_partitions(create, tmp_path):
    """One mini-batch per combination, in JSON's types; other columns are refused."""
    rows = pa.table({"n": [1, 2, 3, 4], "day": [DAY, DAY, None, DAY], "k": ["a/b", "c", "c", "a/b"]})
    table = create(rows, partition_by=["day", "k"])
    table.append(rows)
    reader, found = Reader(), {}
    for batch in table.dataset().partition_cuts(["k", "day"], tmp_path / "copies"):
        work = json.loads(batch.work)
        found[tuple(work["partition_key_value"].items())] = sorted(reader.read(work)["n"])
    day = ("day", "2020-02-29")
    assert found == {
        (("k", "a/b"), day): [1, 1, 4, 4],
        (("k", "c"), day): [2, 2],
        (("k", "c"), ("day", None)): [3, 3],
    }
    with pytest.raises(InputError, match=r"expected some of \['day', 'k'\], the partition columns of this input, got \['n'\]"):
        list(table.dataset().partition_cuts(["n"], tmp_path / "copies"))


def test_a_partition_that_only_some_files_have_is_copied_for_its_keys(create, tmp_path):
    """So is a table without partitions."""
    table = create(pa.table({"n": [1, 2], "k": ["x", "y"]}))
    table.partition_by("k")
    table.append(pa.table({"n": [3], "k": ["x"]}))
    works = [json.loads(batch.work) for batch in table.dataset().partition_cuts(["k"], tmp_path / "c")]
    assert [(work["partition_key_value"], work.get("rows")) for work in works] != []
    assert sorted(work["partition_key_value"]["k"] for work in works) == ["x", "y"]


def test_files_of_other_programs_are_read_by_the_names_of_their_columns(create, tmp_path):
    """They have no field ids; the table's name mapping has the ids, also after a rename."""
    table = create(pa.table({"n": [1], "s": ["a"]}))
    pq.write_table(pa.table({"n": [2], "s": ["b"]}), tmp_path / "other.parquet")
    table.table.add_files([f"file://{tmp_path}/other.parquet"])
    table.evolve(lambda update: update.rename_column("n", "m"))
    check_equal(table.dataset(), table.table.scan())
    assert sorted(pd.concat(rows_of(table.dataset()))["m"]) == [1, 2]


def test_nested_columns_of_other_programs_are_read(create, tmp_path):
    """Their fields have ids in the name mapping too."""
    rows = pa.table({"n": [1], "list": [[1, 2]], "pair": [{"a": 1, "b": "x"}]})
    table = create(rows)
    pq.write_table(rows, tmp_path / "other.parquet")
    table.table.add_files([f"file://{tmp_path}/other.parquet"])
    check_equal(table.dataset(), table.table.scan())


@pytest.mark.parametrize("mapping", [None, '[{"field-id": 1, "names": ["n"]}]'], ids=["none", "part"])
def test_columns_without_an_id_are_an_error(create, tmp_path, mapping):
    """Nulls would be wrong."""
    table = create(pa.table({"n": [1], "s": ["a"]}))
    pq.write_table(pa.table({"n": [2], "s": ["b"]}), tmp_path / "other.parquet")
    table.table.add_files([f"file://{tmp_path}/other.parquet"])
    name = "schema.name-mapping.default"
    with table.table.transaction() as transaction:
        transaction.remove_properties(name)
        if mapping is not None:
            transaction.set_properties({name: mapping})
    with pytest.raises(InputError, match=r"other\.parquet: cannot be read as an Iceberg table: ValueError"):
        rows_of(table.dataset())


TYPES = {"long": pa.int64(), "string": pa.string(), "double": pa.float64(), "time": pa.timestamp("us")}


@pytest.mark.parametrize(
    ("before", "after"), [("long", "string"), ("string", "long"), ("double", "long"), ("long", "time"), ("long", "double")]
)
def test_a_column_of_another_kind_is_an_error(create, tmp_path, before, after):
    """Casts that Iceberg does not know would change values, or fail in run()."""
    table = create(pa.table({"a": pa.array([None], TYPES[after])}))
    pq.write_table(pa.table({"a": pa.array([None], TYPES[before])}), tmp_path / "other.parquet")
    with table.table.transaction() as transaction:
        transaction.set_properties({"schema.name-mapping.default": '[{"field-id": 1, "names": ["a"]}]'})
    add_file(table, tmp_path / "other.parquet")
    with pytest.raises(InputError, match=f"other.parquet: has {TYPES[before]} in column 'a'; expected the table's type"):
        rows_of(table.dataset())


def add_file(table, path):
    """Add a file to the table without pyiceberg's checks, as another program may."""
    (data,) = (task.file for task in table.table.scan().plan_files())
    with table.table.transaction() as transaction, transaction.update_snapshot().fast_append() as append:
        append.append_data_file(copied(data, DataFileContent.DATA, FileFormat.PARQUET, f"file://{path}"))


def test_a_file_that_is_listed_twice_is_an_error(create):
    """Its rows would be missing or doubled."""
    table = create(pa.table({"n": [1]}))
    add_file(table, *table.files())
    with pytest.raises(InputError, match="orders: lists a file more than once"):
        table.dataset().listing()


def test_an_empty_file_is_an_error(create):
    """Other tables may have some; here the rows that the metadata counts would be missing."""
    table = create(pa.table({"n": [1]}))
    (file,) = table.files()
    file.write_bytes(b"")
    with pytest.raises(InputError, match=f"{file.name}: is empty, but the metadata of the table lists it"):
        rows_of(table.dataset())


def test_a_column_that_was_dropped_is_not_read(create, monkeypatch):
    """Nor do its bytes count."""
    table = create(pa.table({"n": range(100), "fat": ["x" * 1000] * 100}))
    (before,) = table.dataset().cuts(1 << 20)
    table.evolve(lambda update: update.delete_column("fat"))
    (after,) = table.dataset().cuts(1 << 20)
    assert after.size < before.size
    read, original = [], pq.ParquetFile.read_row_groups

    def note(file, groups, columns):
        read.append(columns)
        return original(file, groups, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", note)
    assert [list(frame) for frame in rows_of(table.dataset())] == [["n"]]
    assert read == [["n"]]


def test_other_fields_inside_a_column_are_an_error_unless_it_is_dropped(create):
    """A struct that was changed after its file was written: fields would be mixed up by their names."""
    table = create(pa.table({"n": [1], "pair": [{"a": 1, "b": 2}]}))
    table.evolve(lambda update: update.rename_column("pair.a", "c"))
    with pytest.raises(InputError, match=r"has other fields inside the column 'pair' than 'pair' of the table, .*drop_columns"):
        rows_of(table.dataset())
    assert [list(frame) for frame in rows_of(table.dataset().drop_columns("pair"))] == [["n"]]
    table.evolve(lambda update: update.delete_column("pair.c"))
    table.evolve(lambda update: update.add_column(("pair", "a"), LongType()))
    with pytest.raises(InputError, match="has other fields inside"):
        rows_of(table.dataset())


def test_a_removed_file_is_an_error(create):
    """It names the file, the snapshot and what to do."""
    table = create(pa.table({"n": [1]}))
    (file,) = table.files()
    file.unlink()
    with pytest.raises(
        InputError, match=r"\.parquet: is a file of snapshot \d+ of the Iceberg table, but cannot be found: files are"
    ):
        rows_of(table.dataset())


def test_files_that_a_table_must_not_have_are_refused(create):
    """Deleted rows, which pyiceberg does not write, and formats besides Parquet."""
    for content, kind, message in (
        (DataFileContent.POSITION_DELETES, FileFormat.PARQUET, r"has rows that were deleted without .*rewrite_data_files"),
        (DataFileContent.DATA, FileFormat.ORC, r"has the ORC file '.*\.orc'; expected only Parquet files"),
    ):
        table = create(pa.table({"n": [1]}))
        (data,) = (task.file for task in table.table.scan().plan_files())
        path = f"{data.file_path}.{kind.name.lower()}"
        with table.table.transaction() as transaction, transaction.update_snapshot().fast_append() as append:
            append.append_data_file(copied(data, content, kind, path))
        with pytest.raises(InputError, match=message):
            table.dataset().listing()


def copied(data, content, kind, path):
    file = DataFile.from_args(
        content=content,
        file_path=path,
        file_format=kind,
        partition=data.partition,
        record_count=1,
        file_size_in_bytes=10,
        column_sizes={},
        value_counts={},
        null_value_counts={},
        nan_value_counts={},
        lower_bounds={},
        upper_bounds={},
    )
    file.spec_id = data.spec_id
    return file


def test_what_is_not_a_table_is_an_error(create, monkeypatch):
    """The error names the table and the reason."""
    table = create(pa.table({"n": [1]}))
    for name, reason in (
        (f"local.{table.name}s", "cannot be read as an Iceberg table: NoSuchTableError: Table does not exist"),
        (f"wrong.{table.name}", r"cannot be read as an Iceberg table: ValueError: .*: mysql://\*\*\*@host/db"),
        (f"elsewhere.{table.name}", r"the catalog 'elsewhere' is not configured in .*; expected one of: .*local"),
    ):
        with pytest.raises(InputError, match=f"{name}: {reason}") as caught:
            TabularDataset.from_iceberg_table(name).frozen()
        assert "secret" not in "".join(traceback.format_exception(caught.value))
    monkeypatch.setitem(sys.modules, "pyiceberg.catalog", None)
    with pytest.raises(InputError, match=r"pip install 'prefect-parallel-run\[iceberg\]'"):
        table.dataset().frozen()


@pytest.mark.parametrize("name", ["orders", "sales.orders", "local..orders", "/wh/sales.orders", "a/b.c.d", "a.b.c."])
def test_a_name_has_a_catalog_and_a_namespace(name):
    """Others are refused where they are written."""
    with pytest.raises(ValueError, match=r"paths: expected the name of a table as CATALOG.NAMESPACE.TABLE, got"):
        TabularDataset.from_iceberg_table(name)


def test_a_missing_column_has_its_initial_default(create):
    """Of tables in format version 3, which pyiceberg reads, but does not write."""
    table = create(pa.table({"n": [1]}))
    location = Path(table.table.metadata_location.removeprefix("file://"))
    metadata = json.loads(location.read_text())
    added = NestedField(2, "late", LongType(), required=False, initial_default=42)
    metadata["schemas"][0]["fields"].append(json.loads(added.model_dump_json()))
    metadata.update({"last-column-id": 2, "format-version": 3, "next-row-id": 1})
    location.write_text(json.dumps(metadata))
    (frame,) = rows_of(table.dataset())
    assert list(frame["late"]) == [42]
