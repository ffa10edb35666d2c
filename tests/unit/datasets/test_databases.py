"""URIs of databases: which are known, what is a password, what a reference stands for."""

import pickle
import traceback
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run import InputError, TabularDataset
from prefect_parallel_run.datasets.databases import checked_uri, resolved, shown

SECRET = "{{ prefect.blocks.secret.db }}"
VALUE = "hunter2 p@ss/w:rd#%é"
ENCODED = "hunter2%20p%40ss%2Fw%3Ard%23%25%C3%A9"

ACCEPTED = [
    "postgresql://host/shop",
    "postgres://me@host:5432/shop?sslmode=require",
    "postgresql:///shop?host=/run/postgresql",
    "postgresql://me@[::1]:5432/shop",
    f"postgresql://me:{SECRET}@h1:5432,[::1]:5433,h3/shop?target_session_attrs=read-only",
    f"postgresql://me:{SECRET}@host/shop",
    SECRET,
    "sqlite:////data/shop.db",
]


@pytest.mark.parametrize("uri", ACCEPTED)
def test_a_uri_without_a_password_is_accepted(uri):
    assert checked_uri(uri) == uri
    assert checked_uri(f" {uri}\n") == uri


PASSWORDS = [
    "postgresql://me:hunter2@host/shop",
    "postgresql://me:hunter2/x@host/shop",
    "postgresql://me:hun@ter2@host/shop",
    "postgresql://me:hun#ter2@host/shop",
    "postgresql://me:hunter2?@host/shop",
    "postgresql://me:hunter2%zz@host/shop",
    "postgresql://me@host:hunter2/shop",
    "postgresql://me@host:1,other:hunter2/shop",
    "postgresql://me:1,hunter2:5@host/shop",
    "postgresql://:hunter2@host/shop",
    f"postgresql://me:hunter2{SECRET}@host/shop",
    "postgresql://me:123/hunter2@host/shop",
    "postgresql://me:123?hunter2@host/shop",
    "postgresql://me:123#hunter2@host/shop",
    "postgresql://me:hun\nter2@host/shop",
    "postgresql://me:hunter2\u2100@host/shop",
    "postgresql://host/shop password=hunter2",
    "sqlite://me:hunter2@host/shop.db",
    "postgresql://host/shop?password=hunter2",
    "postgresql://host/shop?sslmode=require&pass%77ord=hunter2",
    "postgresql://host/shop?sslpassword=hunter2",
    "postgresql://me:hunter2@host\0/shop",
    "mysql://me:hunter2@host/shop",
    "host=localhost password=hunter2",
    "password=hunter2://x",
    "hunter2",
    "",
]


@pytest.mark.parametrize("uri", PASSWORDS, ids=range(len(PASSWORDS)))
def test_a_refused_uri_is_not_shown(uri):
    """A driver or a reader of the log must not see a password in it."""
    with pytest.raises(InputError) as error:
        TabularDataset.from_sql_query("SELECT 1 AS a", uri)
    assert "hunter2" not in f"{error.value!r} {''.join(traceback.format_exception(error.value))}"
    assert "expected" in str(error.value) or "prefect.blocks.secret.NAME" in str(error.value)
    assert error.value.__cause__ is None
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_an_unknown_scheme_lists_the_known_ones():
    with pytest.raises(
        InputError, match=r"oracle://…: is not a valid URI of a database; expected sqlite:///FILE, .*, postgresql://USER"
    ):
        checked_uri("oracle://host/shop")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///shop.db", "shop.db"),
        ("sqlite:///a b/%C3%A9.db", "a%20b/%C3%A9.db"),
        ("sqlite:///a/../shop.db", "a/../shop.db"),
        ("sqlite:///{a}/shop.db", "%7Ba%7D/shop.db"),
    ],
)
def test_a_path_of_sqlite_becomes_absolute(uri, path, tmp_path, monkeypatch):
    """The run may be resumed from another folder."""
    monkeypatch.chdir(tmp_path)
    assert checked_uri(uri) == f"sqlite:///{tmp_path}/{path}"
    assert checked_uri(checked_uri(uri)) == checked_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        f"postgresql://host/shop?user=me&password={SECRET}",
        "postgresql://{{ prefect.variables.host }}/shop",
        f"postgresql://{SECRET}@host/shop",
        f"postgresql://me:{SECRET}@host/{SECRET}",
        "sqlite:///{{ prefect.variables.folder }}/shop.db",
    ],
)
def test_a_reference_has_one_of_two_places(uri):
    with pytest.raises(InputError, match=r"postgresql://USER:{{ prefect.*, or {{ prefect.* for a block that holds the URI"):
        checked_uri(uri)


@pytest.mark.parametrize("uri", ["sqlite://shop.db", "sqlite:///", "sqlite:///shop.db?mode=rwc", "sqlite:///shop.db#x"])
def test_a_uri_of_sqlite_names_a_file(uri):
    with pytest.raises(InputError, match="expected sqlite:///FILE"):
        checked_uri(uri)


def test_a_reference_in_a_uri_stands_for_text():
    """A password may contain every character."""
    actual, secrets = resolved(f"postgresql://me:{SECRET}@host/shop", {SECRET: VALUE}.__getitem__)
    assert actual == f"postgresql://me:{ENCODED}@host/shop"
    assert {VALUE, ENCODED, actual} <= set(secrets)


def test_a_reference_may_stand_for_the_whole_uri():
    """Its password is secret in both spellings."""
    uri = f"postgresql://me:{ENCODED}@host/shop"
    actual, secrets = resolved(SECRET, {SECRET: uri}.__getitem__)
    assert actual == uri
    assert {VALUE, ENCODED, uri} <= set(secrets)


@pytest.mark.parametrize("raw", ["p@ss", "p%40ss", "p%ss", "p:s", "p[s", "é"])
def test_a_password_in_a_block_is_encoded(raw):
    """A driver would otherwise take a part of it for the host, and show that."""
    password = "p@ss" if raw == "p%40ss" else raw
    actual, secrets = resolved(SECRET, lambda _: f"postgresql://m%40e:{raw}hunter2@host:1/shop?sslmode=require")
    assert actual == f"postgresql://m%40e:{quote(password)}hunter2@host:1/shop?sslmode=require"
    assert {f"{password}hunter2", f"{quote(password)}hunter2"} <= set(secrets)


@pytest.mark.parametrize(
    "value", ["postgresql://me:hun#ter2@host/shop", "postgresql://me:hun/ter2@host/shop", "hunter2", "hunter2://x"]
)
def test_a_block_with_an_invalid_uri_is_not_shown(value):
    """A driver would repeat a part of it."""
    with pytest.raises(InputError) as error:
        resolved(SECRET, lambda _: value)
    assert "ter2" not in str(error.value)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_every_password_arrives_unchanged(password):
    """As the value of a block, and encoded in a URI that a block holds; a URI with it is refused."""
    for uri, value in (
        (f"postgresql://me:{SECRET}@host/shop", password),
        (SECRET, f"postgresql://me:{quote(password, '')}@host/shop"),
    ):
        actual, _ = resolved(uri, lambda _, value=value: value)
        assert unquote(urlsplit(actual).password) == password
        assert urlsplit(actual)._replace(netloc="host").geturl() == "postgresql://host/shop"
    with pytest.raises(InputError):
        checked_uri(f"postgresql://me:{password}@host/shop")


def test_nothing_is_resolved_without_a_reference():
    assert resolved("sqlite:////shop.db", None) == ("sqlite:////shop.db", [])


def test_what_is_shown_has_no_user_and_no_parameters():
    assert shown(f"postgresql://me:{SECRET}@h:1/shop?password={SECRET}") == "postgresql://h:1/shop"
    assert shown(SECRET) == SECRET
