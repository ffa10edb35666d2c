"""The rows of a query: which values arrive, what is refused, and the file that keeps them."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run import InputError, TabularDataset
from prefect_parallel_run._threads import Cancelled
from prefect_parallel_run.child.reading import Reader
from prefect_parallel_run.datasets import databases
from prefect_parallel_run.datasets import sql as module
from prefect_parallel_run.datasets.sql import SqlDataset
from prefect_parallel_run.planning.inputs import fill_placeholders, resolve_side_inputs
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.planning.planner import Planning, PlanWriter
from prefect_parallel_run.runs.fingerprint import dataset_fingerprint

from ...plans import write_plan

MISSING = "{{ prefect.blocks.secret.none }}"


@pytest.fixture
def database(tmp_path):
    """Fills a database from statements and returns its URI."""
    path = tmp_path / "shop.db"

    def fill(*statements):
        with closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement) if isinstance(statement, str) else connection.executemany(*statement)
            connection.commit()
        return f"sqlite:///{path}"

    return fill


def copied(query, uri, folder, **options):
    """The dataset once its query has run."""
    dataset = TabularDataset.from_sql_query(query, uri, **options).as_named_input("sales").copied_to(folder / "inputs", str)
    dataset.copy_rows()
    return dataset


def table(query, uri, folder):
    return pq.read_table(copied(query, uri, folder).paths[0])


INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)  # SQLite stores NaN as NULL
STRINGS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
COLUMNS = st.one_of(*(st.lists(st.none() | values, max_size=20) for values in (INTEGERS, FLOATS, STRINGS, st.binary())))
MIXED = st.lists(st.none() | INTEGERS | FLOATS | STRINGS | st.binary(), max_size=8)


@given(values=COLUMNS | MIXED, declared=st.sampled_from(["", "INTEGER", "VARCHAR(9)", "REAL", "BLOB", "DECIMAL(9,2)", "DATE"]))
def test_sqlite_values_arrive_unchanged_or_are_refused(values, declared, tmp_path_factory):
    """Compared with what Python's own module reads; in small batches, so that types meet in different ones."""
    folder = tmp_path_factory.mktemp("values")
    with closing(sqlite3.connect(folder / "x.db")) as connection:
        connection.execute(f"CREATE TABLE t (n INTEGER PRIMARY KEY, x {declared})")
        connection.executemany("INSERT INTO t (x) VALUES (?)", [(value,) for value in values])
        connection.commit()
        stored = [value for (value,) in connection.execute("SELECT x FROM t ORDER BY n")]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("prefect_parallel_run.datasets.databases._ROWS", 3)
            rows = table("SELECT x FROM t ORDER BY n", f"sqlite:///{folder}/x.db", folder)
    except InputError as error:
        assert "cast all of them to one type" in str(error)  # noqa: PT017  either outcome is right
        return
    read = rows["x"].to_pylist()
    assert read == stored
    assert {type(value) for value in read} <= {type(None), float} or list(map(type, read)) == list(map(type, stored))


def test_sqlite_types_are_those_of_the_table(database, tmp_path):
    """Also for a column without values, such as one that only a few rows have."""
    columns = "a INTEGER, b VARCHAR(10), c REAL, d BLOB, e DECIMAL(9, 2), f"
    uri = database(f"CREATE TABLE t ({columns})", "INSERT INTO t (e) VALUES (5), (5.5)")
    types = [pa.int64(), pa.string(), pa.float64(), pa.binary(), pa.float64(), pa.null()]
    assert table("SELECT * FROM t", uri, tmp_path).schema.types == types


def test_sqlite_columns_may_have_other_values_than_declared(database, tmp_path):
    """SQLite stores them; the types are those of the first rows then."""
    uri = database("CREATE TABLE t (a INTEGER, b INTEGER, c TEXT)", "INSERT INTO t VALUES ('x', 1, x'00'), ('y', 2.5, x'ff')")
    assert table("SELECT * FROM t", uri, tmp_path).to_pylist() == [
        {"a": "x", "b": 1.0, "c": b"\0"},
        {"a": "y", "b": 2.5, "c": b"\xff"},
    ]


@pytest.mark.parametrize("declared", ["", "DATE", "DATETIME", "BOOLEAN"])
def test_sqlite_columns_may_begin_with_many_nulls(declared, database, tmp_path):
    """The first rows show no type, and CAST(NULL AS TEXT) is NULL."""
    uri = database(
        f'CREATE TABLE t (n INTEGER, "sh""ipped" {declared})',
        ("INSERT INTO t VALUES (?, ?)", [(n, None if n < 2000 else f"day {n}") for n in range(3000)]),
    )
    query = 'SELECT n, "sh""ipped", CASE WHEN n >= 2500 THEN n / 2.0 END AS half, NULL AS empty FROM t ORDER BY n'
    rows = table(query, uri, tmp_path)
    assert rows.schema.types == [pa.int64(), pa.string(), pa.float64(), pa.null()]
    assert rows['sh"ipped'].to_pylist() == [None if n < 2000 else f"day {n}" for n in range(3000)]
    assert rows["half"].to_pylist() == [n / 2 if n >= 2500 else None for n in range(3000)]


REFUSED = {
    "a syntax error": ("SELECT * FRM t", 'near "FRM": syntax error; expected one SELECT statement'),
    "no such table": ("SELECT * FROM absent", "no such table: absent"),
    "a change": ("INSERT INTO t VALUES (1)", "expected one SELECT statement"),
    "several statements": ("SELECT 1 AS a; SELECT 2 AS a", "expected one SELECT statement"),
    "a repeated name": ("SELECT n, 2 AS n FROM t", "several columns 'n'; rename them with AS"),
    "text among numbers": ("SELECT 1 AS a UNION ALL SELECT 'x'", "column 'a' has values of int and str; cast all of them"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_query_is_refused_with_its_reason(case, database, tmp_path):
    query, reason = REFUSED[case]
    uri = database("CREATE TABLE t (n INTEGER)", "INSERT INTO t VALUES (7)")
    with pytest.raises(InputError) as error:
        copied(query, uri, tmp_path)
    assert str(error.value).startswith(f"input query {query!r} in {uri}: ")
    assert reason in str(error.value)
    assert list((tmp_path / "inputs").iterdir()) == []
    assert table("SELECT n FROM t", uri, tmp_path).to_pylist() == [{"n": 7}]


COMMENTS = st.lists(st.sampled_from((" ", "\n", " /* ; ' */ ", " -- ; it's\n")), max_size=3).map("".join)


@given(
    parts=st.lists(st.sampled_from(("';'", "'a''; --'", "(SELECT ';' AS \";\")")), min_size=1, max_size=3),
    tail=COMMENTS,
    semicolon=st.sampled_from(("", ";")),
    end=st.tuples(COMMENTS, st.sampled_from(("", "-- end", "-- end;"))).map("".join),
)
def test_a_query_of_sqlite_ends_where_the_database_says(parts, tail, semicolon, end, tmp_path_factory):
    """A semicolon may follow; one in a string, a name or a comment does not end it."""
    folder, value = tmp_path_factory.mktemp("end"), " || ".join(parts)
    with closing(sqlite3.connect(folder / "x.db")) as connection:
        ((expected,),) = connection.execute(f"SELECT {value}")
        connection.execute("CREATE TABLE t (n)")
    query = f'SELECT {value} AS "a;b"{tail}{semicolon}{end}'
    assert table(query, f"sqlite:///{folder}/x.db", folder).to_pylist() == [{"a;b": expected}]


@pytest.mark.parametrize("reason", ["No such file or directory", "file is not a database"])
def test_a_missing_database_is_not_created(reason, tmp_path):
    path = tmp_path / "shop.db"
    if "not a database" in reason:
        path.write_bytes(b"something else" * 100)
    with pytest.raises(InputError, match=reason):
        copied("SELECT 1 AS a", f"sqlite:///{path}", tmp_path)
    assert path.exists() == ("not a database" in reason)


def test_rows_are_written_while_the_query_is_read(database, tmp_path, monkeypatch):
    """So memory stays flat; each row group is much smaller than the table."""
    monkeypatch.setattr(databases, "_BATCH_BYTES", 100_000)
    uri = database("CREATE TABLE t (x TEXT)", ("INSERT INTO t VALUES (?)", [("x" * 100,) for _ in range(20_000)]))
    read, written = [], []
    next_batch, write = SqlDataset._next, module.pq.ParquetWriter.write_batch

    def counted(self, rows, secrets):
        batch = next_batch(self, rows, secrets)
        read.append(0 if batch is None else batch.num_rows)
        return batch

    def noted(self, batch, **options):
        written.append((batch.num_rows, sum(read)))
        write(self, batch, **options)

    monkeypatch.setattr(SqlDataset, "_next", counted)
    monkeypatch.setattr(module.pq.ParquetWriter, "write_batch", noted)
    groups = pq.read_metadata(copied("SELECT x FROM t", uri, tmp_path).paths[0])
    assert max(before - sum(rows for rows, _ in written[:number]) for number, (_, before) in enumerate(written)) < 3_000
    assert groups.num_rows == 20_000
    assert 15 <= groups.num_row_groups == len(written)
    assert max(groups.row_group(number).num_rows for number in range(groups.num_row_groups)) <= 1_500


def test_large_batches_are_divided(database, tmp_path, monkeypatch):
    """Some drivers fetch many rows per batch."""
    monkeypatch.setattr(module, "_GROUP_BYTES", 800)
    monkeypatch.setattr(databases, "_ROWS", 10_000)
    uri = database("CREATE TABLE t (n INTEGER)", ("INSERT INTO t VALUES (?)", [(number,) for number in range(1_000)]))
    groups = pq.read_metadata(copied("SELECT n FROM t", uri, tmp_path).paths[0])
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [100] * 10


def test_columns_without_values_keep_their_rows(database, tmp_path):
    """Arrow needs no bytes for them."""
    uri = database("CREATE TABLE t (x)", ("INSERT INTO t VALUES (?)", [(None,) for _ in range(3_000)]))
    assert table("SELECT x FROM t", uri, tmp_path)["x"].to_pylist() == [None] * 3_000


def test_integers_that_a_dataframe_rounds_are_a_warning(database, tmp_path):
    """With advice for a query."""
    uri = database("CREATE TABLE t (n INTEGER)", "INSERT INTO t VALUES (9007199254740993), (NULL)")
    warnings = []
    list(copied("SELECT n FROM t", uri, tmp_path).cuts(1 << 20, warn=warnings.append))
    assert len(warnings) == 1
    assert warnings[0].startswith(f"query 'SELECT n FROM t' in {uri} has nulls in column 'n' and integers beyond 2**53")
    assert warnings[0].endswith("or cast it to text if the rows come from a query")


def test_a_query_runs_once(database, tmp_path):
    """Its rows are those of that time, also without the database."""
    uri = database("CREATE TABLE t (n INTEGER)", "INSERT INTO t VALUES (1)")
    dataset = copied("SELECT n FROM t", uri, tmp_path)
    Path(tmp_path, "shop.db").unlink()
    dataset.copy_rows()
    (batch,) = dataset.cuts(1 << 20)
    assert batch.items == 1


def test_a_cancelled_query_leaves_nothing(database, tmp_path):
    """Although it would run for days."""
    uri = database("CREATE TABLE t (n INTEGER)")
    endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT max(n) AS n FROM r"
    dataset = TabularDataset.from_sql_query(endless, uri).as_named_input("sales").copied_to(tmp_path / "inputs", str)

    def cancel():
        raise Cancelled

    with pytest.raises(Cancelled):
        dataset.copy_rows(cancel)
    assert list((tmp_path / "inputs").iterdir()) == []


def test_columns_and_keys_work_as_for_other_tables(database, tmp_path):
    """Selected columns, partition keys, and input columns."""
    rows = [(number % 2, number, "x") for number in range(10)]
    uri = database("CREATE TABLE t (k INTEGER, n INTEGER, s TEXT)", ("INSERT INTO t VALUES (?, ?, ?)", rows))
    query = TabularDataset.from_sql_query("SELECT * FROM t ORDER BY n DESC", uri).as_named_input("sales")
    dataset = query.drop_columns("s").copied_to(tmp_path / "inputs", str)
    assert write_plan([dataset.with_input_columns(["row", "n"])], 1 << 20, tmp_path / "plan.parquet", ["k"]).mini_batches == 2
    works = [eval(work) for work in Plan(tmp_path / "plan.parquet").works(0, 2)]  # of numbers and strings alone
    frames = [Reader().read(work) for work in works]
    pd.testing.assert_frame_equal(frames[1], pd.DataFrame({"n": [9, 7, 5, 3, 1], "k": 1}))


COLUMNS_ARE = "its columns are 'id', 'days', 'row', 'file'"
LOCATION = "in append_row_input_columns is the location of a row; drop or rename the column"
MISFITS = {
    "kept": (
        "keep_columns",
        "day",
        [],
        [],
        f"lacks the column 'day', which keep_columns names; did you mean days?; {COLUMNS_ARE}",
    ),
    "dropped": ("drop_columns", "x", [], [], f"lacks the column 'x', which drop_columns names; {COLUMNS_ARE}"),
    "a key": ("drop_columns", "id", ["x"], [], f"lacks the column 'x', which partition_keys names; {COLUMNS_ARE}"),
    "input column": (
        "keep_columns",
        "id",
        [],
        ["x"],
        "lacks the column 'x', which append_row_input_columns names; its columns",
    ),
    "no file": (
        "keep_columns",
        "id",
        [],
        ["file"],
        "lacks the column 'file', which append_row_input_columns names; its columns",
    ),
    "a row": ("drop_columns", "id", [], ["row"], f"has a column 'row', and 'row' {LOCATION}"),
    "a file": ("drop_columns", "id", [], ["file"], f"has a column 'file', and 'file' {LOCATION}"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_an_error_about_columns_names_the_query(case, database, tmp_path):
    """Its beginning, and its columns; before any row is copied."""
    uri = database("CREATE TABLE orders (id INTEGER, days INTEGER)")
    method, column, keys, input_columns, reason = MISFITS[case]
    query = "SELECT id, days,\n 1 AS row, 2 AS file FROM orders WHERE days > 14 ORDER BY id"
    dataset = getattr(TabularDataset.from_sql_query(query, uri).as_named_input("sales"), method)(column)
    planning = Planning([dataset.copied_to(tmp_path / "inputs", str)], 100, keys or None, tmp_path / "store", input_columns)
    with pytest.raises(InputError) as error:
        planning.write(PlanWriter(tmp_path / "plan.parquet"))
    shown = f"input query 'SELECT id, days, 1 AS row, 2 AS file FROM orders WHERE …' in {uri}: {reason}"
    assert str(error.value).startswith(shown)
    assert list((tmp_path / "inputs").iterdir()) == []


def test_a_query_without_rows_is_an_error_unless_allowed(database, tmp_path):
    uri = database("CREATE TABLE t (n INTEGER)")
    query = TabularDataset.from_sql_query("SELECT n FROM t", uri, allow_empty=True).as_named_input("sales")
    assert write_plan([query.copied_to(tmp_path / "inputs", str)], 100, tmp_path / "plan.parquet").items == 0
    strict = query.model_copy(update={"allow_empty": False}).copied_to(tmp_path / "inputs", str)
    with pytest.raises(InputError, match=f"input query 'SELECT n FROM t' in {uri}: has no items"):
        write_plan([strict], 100, tmp_path / "plan.parquet")


def test_the_dataset_survives_serialization():
    """And its identity does not depend on the run that keeps its rows."""
    dataset = TabularDataset.from_sql_query("SELECT 1 AS a", MISSING).keep_columns("a").as_named_input("sales")
    assert SqlDataset.model_validate(dataset.model_dump(mode="json")) == dataset
    in_run = dataset.copied_to(Path("/runs/1/inputs"), str)
    assert in_run.paths == ["/runs/1/inputs/sales.parquet"]
    assert dataset_fingerprint(in_run.model_dump()) == dataset_fingerprint(dataset.model_dump())
    other = dataset.model_copy(update={"query": "SELECT 2 AS a"})
    assert dataset_fingerprint(other.model_dump()) != dataset_fingerprint(dataset.model_dump())


def test_a_query_has_no_path():
    """So it is not a side input, and no argument can name it."""
    dataset = TabularDataset.from_sql_query("SELECT 1 AS a", MISSING).as_named_input("sales")
    with pytest.raises(InputError, match="is a query, which has no path"):
        resolve_side_inputs({"sales": dataset}, [])
    with pytest.raises(ValueError, match=r"unknown placeholder \{inputs.sales\}"):
        fill_placeholders(["--x", "{inputs.sales}"], None, [dataset], {})


def test_an_empty_query_is_refused():
    with pytest.raises(ValueError, match="at least 1 character"):
        TabularDataset.from_sql_query("", MISSING)


def test_a_missing_driver_is_named(monkeypatch, tmp_path):
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
    monkeypatch.delitem(sys.modules, "adbc_driver_postgresql.dbapi", raising=False)
    with pytest.raises(InputError, match=r"pip install 'prefect-parallel-run\[sql\]'"):
        copied("SELECT 1 AS a", "postgresql://host/shop", tmp_path)
