"""The databases that a query can be run in, and their URIs, which contain no password.

A reference to a Prefect block may stand for the password of a URI, or for the whole URI.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from functools import partial
from math import inf
from pathlib import Path
from threading import Event
from types import NoneType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc

from prefect_parallel_run._threads import call_with_timeout
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.paths import absolute_path

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Connection, Cursor

_REFERENCE = re.compile(r"\{\{\s*prefect\.(?:blocks|variables)\.[^{}]+\}\}")
_EXAMPLE = "{{ prefect.blocks.secret.NAME }}"
_URI = re.compile(
    r"""
    sqlite:///(?P<file>(?![^?\#]*\{\{)[^?\#]+)
    | postgres(?:ql)?://
    (?:[^:@/?\#\s{}]*(?::(?P<password>[^/?\#]*))?@)?
    (?:(?:(?<=[/@])|,)(?:\[[\da-fA-F:.]+\]|[^:@/?\#\s{},]*)(?::\d{1,5})?)+  # hosts and ports, which libpq tries in order
    (?:/[^@?\#\s{}]*)?  # database
    (?P<options>\?[^@\#\s{}]*)?
    """,
    re.VERBOSE,
)
Rows = Generator[pa.RecordBatch, None, None]

_SHORTEST_SECRET = 4  #: characters; replacing shorter ones in an error would hide too much

#: PostgreSQL's types whose values arrive unchanged. Money does not, for example (as an integer), nor do arrays (without their
#: dimensions).
_UNCHANGED = {
    *("bool", "int2", "int4", "int8", "float4", "float8", "text", "varchar", "bpchar", "name", "char", "bytea"),
    *("date", "time", "timestamp", "timestamptz"),
}
_SYNTAX_ERROR, _READ_ONLY = "42601", "25006"  #: SQLSTATEs; the latter of a statement that would change the database
_FIRST_DAY = -2_440_588  #: days from 1970 to the first date of PostgreSQL; infinity arrives as an earlier one
_DAY = 86_400_000_000  #: µs

_ROWS, _MOST_ROWS = 1_024, 8_192  #: rows of SQLite in the first batch, and in any batch: the next rows may be much larger
_BATCH_BYTES = 2 << 20  #: approximate bytes of a batch of SQLite: enough for a row group
_CLASSES: dict[pa.DataType, set[type]] = {  #: classes of SQLite's values that a type holds unchanged
    pa.null(): {NoneType},
    pa.int64(): {NoneType, int},
    pa.float64(): {NoneType, int, float},  # an integer only if that is exact
    pa.string(): {NoneType, str},
    pa.binary(): {NoneType, bytes},
}
_DECLARED = {  #: what occurs in the names of SQLite's declared types, in the order of its own rules
    "INT": pa.int64(),
    "CHAR|CLOB|TEXT": pa.string(),
    "BLOB": pa.binary(),
    "REAL|FLOA|DOUB|DEC|NUMERIC": pa.float64(),
}


def _read_postgresql(uri: str, query: str, cancels: list[Callable[[], None]]) -> Rows:
    """Read through ADBC, which copies the rows in binary form."""
    from adbc_driver_postgresql import dbapi  # noqa: PLC0415  an extra

    is_cancelled = Event()
    cancels.append(is_cancelled.set)
    connect = partial(dbapi.connect, uri)  # cannot be interrupted
    try:
        with (
            closing(call_with_timeout(connect, inf, is_cancelled, undo=dbapi.Connection.close)) as connection,
            closing(connection.cursor()) as cursor,
        ):
            cancels.append(connection.adbc_cancel)
            _execute(connection, cursor, query)
            reader = cursor.fetch_record_batch()
            for field in reader.schema:
                kind = (field.metadata or {}).get(b"POSTGRESQL:type", b"unknown").decode()
                if kind not in _UNCHANGED and not pa.types.is_string(field.type):  # the values of an enum are strings
                    advice = "cast it in the query, for example to text or double precision"
                    raise ValueError(f"column {field.name!r} has the type {kind}, whose values would change; {advice}")
            yield pa.RecordBatch.from_pylist([], reader.schema)
            for batch in reader:
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    if pa.types.is_temporal(column.type) and _has_changed(column):
                        message = "has a value such as infinity or 24:00, which would change; cast it to text"
                        raise ValueError(f"column {name!r} {message}")
                yield batch
    except dbapi.Error as error:
        advice = "; expected one SELECT statement" if error.sqlstate in {_SYNTAX_ERROR, _READ_ONLY} else ""
        raise ValueError(f"{error}{advice}") from error


def _execute(connection: Connection, cursor: Cursor, query: str) -> None:
    """Execute one SELECT statement, which a semicolon, comments and blanks may follow.

    The driver encloses the query in COPY (...), where a semicolon is not valid. The server knows which semicolon ends the
    statement: after another statement, it accepts that one and what follows. No transaction may change the database.
    """
    cursor.execute("SET default_transaction_read_only = on")
    connection.commit()
    cursor.adbc_prepare(query)  # fails unless it is one statement
    errors = []
    for end in [len(query), *(found.start() for found in reversed(list(re.finditer(";", query))))]:
        try:
            if end < len(query):
                cursor.adbc_prepare(f"SELECT 1{query[end:]}")  # fails unless only comments and blanks follow
            cursor.execute(f"{query[:end]}\n")  # it may end with a comment
        except connection.ProgrammingError as error:
            if error.sqlstate != _SYNTAX_ERROR:
                raise
            errors.append(error)
            connection.rollback()
        else:
            return
    raise errors[0]


def _has_changed(column: pa.Array) -> bool:
    """Check whether a column has times that Arrow lacks: infinity, or 24:00."""
    unit = 1 if pa.types.is_date(column.type) else _DAY
    least, most = pc.min_max(column.cast(pa.int32() if unit == 1 else pa.int64())).as_py().values()
    if least is None:
        return False
    return bool(most >= _DAY if pa.types.is_time(column.type) else least < _FIRST_DAY * unit)


def _read_sqlite(uri: str, query: str, cancels: list[Callable[[], None]]) -> Rows:
    """Read a file by Python's own module.

    ADBC's driver changes values where a column mixes types: 0.1 among text becomes "1.000000e-01", 2^53 + 1 among floats 2^53.
    """
    path = Path(absolute_path(unquote(uri.removeprefix("sqlite:///"))))
    path.stat()  # raises an error that says why; SQLite only says that it cannot open a file
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:  # a missing file is not created
        cancels.append(connection.interrupt)
        try:
            connection.execute(f"CREATE TEMP VIEW parallel_run_query AS {query}")
        except (sqlite3.Error, sqlite3.Warning) as error:  # a warning for several statements, before Python 3.11
            raise ValueError(f"{error}; expected one SELECT statement") from error
        columns = connection.execute("PRAGMA temp.table_info(parallel_run_query)").fetchall()
        cursor = connection.execute(query)
        names, size, rows = [column[0] for column in cursor.description], _ROWS, cursor.fetchmany(_ROWS)
        values = zip(*rows, strict=True) if rows else [()] * len(names)
        types = [_type(connection, column[1], column[2], first) for column, first in zip(columns, values, strict=True)]
        schema = pa.schema(list(zip(names, types, strict=True)))
        yield pa.RecordBatch.from_pylist([], schema)
        while rows:
            batch = pa.RecordBatch.from_arrays(list(map(_array, schema, zip(*rows, strict=True))), schema=schema)
            yield batch
            size = max(1, min(2 * size, _MOST_ROWS, size * _BATCH_BYTES // max(1, batch.nbytes)))
            rows = cursor.fetchmany(size)


def _type(connection: sqlite3.Connection, name: str, declared: str, values: Sequence[Any]) -> pa.DataType:
    """Return the declared type of a column of the view if its first values have it, else their own type.

    Without a known declared type, a column of NULLs has the type of its first other value: CAST does not change NULL.
    """
    known = [kind for pattern, kind in _DECLARED.items() if re.search(pattern, declared.upper())]
    if not known and len(values) == _ROWS and set(values) == {None}:
        column = '"' + name.replace('"', '""') + '"'
        query = f"SELECT {column} FROM temp.parallel_run_query WHERE {column} IS NOT NULL LIMIT 1"  # noqa: S608  a quoted name
        values = connection.execute(query).fetchone() or values
    fitting = (kind for kind in [*known, *_CLASSES] if _CLASSES[kind].issuperset(map(type, values)))
    return next(fitting, pa.null())


def _array(field: pa.Field, values: Sequence[Any]) -> pa.Array:
    classes = set(map(type, values))
    if classes <= _CLASSES[field.type]:  # else Arrow would convert 2.5 to 2, or bytes to text
        with suppress(pa.ArrowInvalid):  # an integer that a float cannot hold
            return pa.array(values, field.type)
    found = " and ".join(sorted(kind.__name__ for kind in classes - {NoneType}))
    kind = "" if pa.types.is_null(field.type) else f"the type {field.type}, as declared or from its first rows, but also "
    raise ValueError(
        f"column {field.name!r} has {kind}values of {found};"
        f" cast all of them to one type in the query, such as CAST({field.name} AS TEXT)"
    )


#: Functions that run a query in the database at a URI. They yield an empty batch with the columns, then the rows as they are
#: fetched, and append functions that cancel the query to *cancels*. They raise ValueError: it fails, or values would change;
#: OSError, or an error of Arrow or sqlite3.
DATABASES: dict[str, Callable[[str, str, list[Callable[[], None]]], Rows]] = {
    "postgresql": _read_postgresql,
    "postgres": _read_postgresql,
    "sqlite": _read_sqlite,
}


def checked_uri(uri: str) -> str:
    """Return the URI of a database, with an absolute path; or a reference to a block that holds the URI.

    Raises:
        InputError: The URI is invalid or contains a password. It shows no part of a password.
    """
    uri = uri.strip()
    if _REFERENCE.fullmatch(uri):
        return uri
    scheme, separator, _ = uri.partition("://")
    parts = _parts(uri, f"{scheme}://…" if separator and scheme.isalpha() else "uri")
    password = parts["password"]
    if password and not _REFERENCE.fullmatch(password):
        advice = f"store it in a Prefect Secret block and write {_EXAMPLE} in its place"
        raise InputError(shown(uri), f"the URI contains a password, which would be stored on disk; {advice}")
    return f"sqlite:///{quote(absolute_path(unquote(parts['file'])))}" if parts["file"] else uri


def shown(uri: str) -> str:
    """Return a valid URI without its user, password and parameters.

    >>> shown("postgresql://me:{{ prefect.blocks.secret.db }}@host:5432/shop?sslmode=require")
    'postgresql://host:5432/shop'
    """
    return re.sub("//[^?]*@", "//", uri.partition("?")[0])


def resolved(uri: str, resolve: Callable[[str], str]) -> tuple[str, list[str]]:
    """Return a checked URI with its reference replaced, and what no error may contain."""
    if (reference := _REFERENCE.search(uri)) is None:
        return uri, []
    value = resolve(reference[0])
    whole = value if uri == reference[0] else uri
    parts = _parts(whole, uri)
    password = value if whole is uri else unquote(parts["password"] or "")
    encoded = quote(password, safe="")  # drivers take other characters for the end of the password
    start, end = parts.span("password")
    actual = f"{whole[:start]}{encoded}{whole[end:]}" if parts["password"] else whole
    secrets = {actual, value, password, encoded}
    return actual, sorted((secret for secret in secrets if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True)


def _parts(uri: str, name: str) -> re.Match[str]:
    """Return the parts of a valid URI. An error shows *name*, and no part of the URI beyond its scheme."""
    parts = _URI.fullmatch(uri)
    if parts is None or re.search("[?&][^=]*password", unquote(parts["options"] or ""), re.IGNORECASE):
        server = f"postgresql://USER:{_EXAMPLE}@HOST:PORT/DATABASE, where %40 and the like stand for special characters"
        expected = f"expected sqlite:///FILE, sqlite:////FOLDER/FILE, {server}, or {_EXAMPLE} for a block that holds the URI"
        raise InputError(name, f"is not a valid URI of a database; {expected}")
    return parts
