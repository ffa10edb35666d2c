"""Queries in a real PostgreSQL server: values, refusals, cancellation, and a password that is shown nowhere."""

import datetime as dt
import socket
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from textwrap import shorten

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_parallel_run import InputError, TabularDataset
from prefect_parallel_run._threads import Cancelled

from ..postgresql import PASSWORD, REFERENCE
from .conftest import wait_until


def copied(query, uri, folder, password=PASSWORD):
    dataset = (
        TabularDataset.from_sql_query(query, uri)
        .as_named_input("sales")
        .copied_to(folder / "inputs", {REFERENCE: password}.get)
    )
    dataset.copy_rows()
    return Path(dataset.paths[0])


UNCHANGED = {
    "bool": ("true", True),
    "int2": ("-7", -7),
    "int8": ("9223372036854775807", 2**63 - 1),
    "float4": ("1.5", 1.5),
    "float8": ("0.1", 0.1),
    "text": ("'é'", "é"),
    "char(3)": ("'x'", "x  "),
    "bytea": (r"'\x00ff'", b"\x00\xff"),
    "date": ("'4713-01-01 BC'", None),
    "timestamp": ("'9999-12-31 23:59:59.999999'", dt.datetime(9999, 12, 31, 23, 59, 59, 999999)),  # noqa: DTZ001
    "timestamptz": ("'2026-01-01 01:00+01'", dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)),
    "time": ("'23:59:59.999999'", dt.time(23, 59, 59, 999999)),
    "mood": ("'good'", "good"),
}


@pytest.mark.parametrize("kind", UNCHANGED)
def test_values_arrive_unchanged(kind, postgresql, tmp_path):
    """And nulls stay nulls."""
    postgresql.run("DROP TYPE IF EXISTS mood", "CREATE TYPE mood AS ENUM ('good')")
    text, value = UNCHANGED[kind]
    path = copied(f"SELECT CAST({text} AS {kind}) AS a, CAST(NULL AS {kind}) AS b", postgresql.uri, tmp_path)
    read = pq.read_table(path)
    assert read["b"].to_pylist() == [None]
    if value is None:  # Python has no such date
        assert read["a"].cast("int32").to_pylist() == [-2440550]
    else:
        assert read["a"].to_pylist() == [value]


CHANGED = {
    "numeric": "1.50::numeric(9, 2)",
    "money": "1::money",
    "oid": "4000000000::oid",
    "uuid": "gen_random_uuid()",
    "json": "'{}'::json",
    "interval": "'1 day'::interval",
    "_int4": "ARRAY[[1, 2], [3, 4]]",
    "timetz": "'12:00+01'::timetz",
    "inet": "'::1'::inet",
    "record": "ROW(1)",
}


@pytest.mark.parametrize("kind", CHANGED)
def test_a_type_whose_values_would_change_is_refused(kind, postgresql, tmp_path):
    """With its column; after a cast it is accepted."""
    with pytest.raises(InputError) as error:
        copied(f"SELECT 1 AS a, {CHANGED[kind]} AS b", postgresql.uri, tmp_path)
    assert f"in {postgresql.origin}: the query failed: column 'b' has the type {kind}, whose values would change; cast" in str(
        error.value
    )
    (expected,) = postgresql.run(f"SELECT CAST({CHANGED[kind]} AS text)") if kind != "uuid" else [None]
    read = pq.read_table(copied(f"SELECT CAST({CHANGED[kind]} AS text) AS b", postgresql.uri, tmp_path))
    assert expected is None or read["b"].to_pylist() == list(expected)


@pytest.mark.parametrize(
    "value",
    ["'infinity'::date", "'-infinity'::timestamp", "'infinity'::timestamptz", "'294276-12-31'::timestamp", "'24:00'::time"],
)
def test_a_time_without_an_equal_is_refused(value, postgresql, tmp_path):
    """The driver turns it into another one."""
    with pytest.raises(InputError, match="column 'a' has a value such as infinity or 24:00"):
        copied(f"SELECT {value} AS a", postgresql.uri, tmp_path)


FAILING = {
    "a syntax error": ("SELEC 1", 'syntax error at or near "SELEC"'),
    "several statements": ("SELECT 1 AS a; SELECT 2 AS a", "multiple commands"),
    "several statements and a comment": ("SELECT 1 AS a; INSERT INTO kept VALUES (1); -- SELECT", "multiple commands"),
    "another statement": ("EXPLAIN SELECT ';';", "syntax error at or near"),
    "a parameter": ("SELECT $1::int AS a; --", "parameter $1"),
    "an error that looks like one of the syntax": (
        "SELECT 1 AS a -- all; where\nWHERE ''::tsvector @@ to_tsquery('english', 'a b')",
        "tsquery",
    ),
    "a change with rows": ("DELETE FROM kept RETURNING n", "cannot execute DELETE in a read-only transaction"),
    "a change inside": ("WITH d AS (DELETE FROM kept RETURNING n) SELECT * FROM d", "25006; expected one SELECT statement"),
    "a change": ("INSERT INTO kept VALUES (1)", "cannot execute INSERT in a read-only transaction"),
    "a repeated name": ("SELECT 1 AS a, 2 AS a", "several columns 'a'; rename them with AS"),
    "an error on the way": ("SELECT 1 / (90000 - n) AS a FROM generate_series(1, 100000) n", "division by zero"),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_failing_query_is_named(case, postgresql, tmp_path):
    """It leaves nothing, here and there."""
    postgresql.run("DROP TABLE IF EXISTS kept", "CREATE TABLE kept (n int)")
    query, reason = FAILING[case]
    with pytest.raises(InputError) as error:
        copied(query, postgresql.uri, tmp_path)
    assert str(error.value).startswith(f"input query {shorten(query, 60, placeholder=' …')!r} in {postgresql.origin}: ")
    assert reason in str(error.value)
    assert ("; expected one SELECT statement" in str(error.value)) == (
        case not in {"a parameter", "a repeated name", "an error on the way"}
    )
    assert list((tmp_path / "inputs").iterdir()) == []
    assert postgresql.run("SELECT count(*) FROM kept") == [(0,)]


@pytest.mark.parametrize("case", ["wrong password", "no server", "no database", "no host"])
def test_no_error_shows_a_password(case, postgresql, tmp_path):
    """Not in its text, its cause, or its context."""
    uri, password = postgresql.uri, PASSWORD
    if case == "wrong password":
        password = "hunter2 planted"
    elif case == "no server":
        uri = uri.replace(f":{postgresql.port}/", ":1/")
    elif case == "no database":
        uri = uri.replace("/postgres", "/nothing")
    else:
        uri = uri.replace("127.0.0.1", "nothing.invalid")
    with pytest.raises(
        InputError, match=r"the query failed: .*(authentication|refused|does not exist|resolve|translate)"
    ) as error:
        copied("SELECT 1 AS a", uri, tmp_path, password)
    everything = "".join(traceback.format_exception(error.value)) + repr(error.value)
    assert "planted" not in everything
    assert error.value.__context__ is None


def test_the_first_host_that_accepts_a_connection_is_read(postgresql, tmp_path):
    """As libpq does for several hosts; nothing listens on port 1."""
    uri = postgresql.uri.replace("@", "@127.0.0.1:1,")
    assert pq.read_table(copied("SELECT 1 AS a", uri, tmp_path)).to_pylist() == [{"a": 1}]


LITERALS = ("';'", "'a''; --'", "E'\\\\'';'", "$$;$$", "$t$; -- $$ $t$", "(SELECT ';' AS \";\")")
COMMENTS = (" ", "\n", " /* ; ' */ ", " /* /* ; */ $$ */ ", " -- ; it's\n")


@settings(max_examples=25)
@given(
    parts=st.lists(st.tuples(st.sampled_from(LITERALS), st.sampled_from(COMMENTS)), min_size=1, max_size=4),
    tail=st.lists(st.sampled_from((";", *COMMENTS)), max_size=5),
    end=st.sampled_from(("", ";", "-- end", "-- end;")),
)
def test_a_query_ends_where_the_server_says(parts, tail, end, postgresql, tmp_path_factory):
    """A semicolon may follow; one in a string, a name or a comment does not end it."""
    statement = " || ".join("".join(part) for part in parts)
    query = f'SELECT {statement} AS "a;b"{"".join(tail)}{end}'
    ((expected,),) = postgresql.run(f"SELECT {statement}")
    assert pq.read_table(copied(query, postgresql.uri, tmp_path_factory.mktemp("end"))).to_pylist() == [{"a;b": expected}]


def test_a_cancelled_query_ends_on_the_server(postgresql, tmp_path):
    """Immediately, although the server would work for an hour."""
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)%' AND pid <> pg_backend_pid()"
    is_seen = threading.Event()

    def check():
        if is_seen.is_set():
            raise Cancelled

    def watch():
        wait_until(lambda: postgresql.run(running) == [(1,)])
        is_seen.set()

    watching = threading.Thread(target=watch)
    watching.start()
    dataset = TabularDataset.from_sql_query("SELECT 1 AS a, pg_sleep(3600)::text AS b", postgresql.uri).as_named_input("sales")
    with pytest.raises(Cancelled):
        dataset.copied_to(tmp_path / "inputs", lambda _: PASSWORD).copy_rows(check)
    watching.join()
    wait_until(lambda: postgresql.run(running) == [(0,)])
    assert list((tmp_path / "inputs").iterdir()) == []


def test_cancelling_does_not_wait_for_a_connection(tmp_path):
    """The server accepts it and then never answers, and the driver waits without limit."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = []

        def check():
            server.settimeout(0)
            with suppress(BlockingIOError):
                accepted.append(server.accept()[0])
                raise Cancelled

        uri = f"postgresql://tester@127.0.0.1:{server.getsockname()[1]}/shop"
        dataset = TabularDataset.from_sql_query("SELECT 1 AS a", uri).as_named_input("sales")
        with pytest.raises(Cancelled):
            dataset.copied_to(tmp_path / "inputs", str).copy_rows(check)
        wait_until(lambda: "query" not in threads())
        accepted[0].close()  # the driver stops waiting now
        wait_until(lambda: "call-that-may-hang" not in threads())
    assert list((tmp_path / "inputs").iterdir()) == []


def threads():
    return {thread.name for thread in threading.enumerate()}
