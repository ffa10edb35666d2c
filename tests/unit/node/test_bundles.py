"""A bundle depends only on the code; what cannot be bundled is named in an error."""

import os
import re
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run import ParallelRunConfig
from prefect_parallel_run.node import remote_setup
from prefect_parallel_run.node.remote_setup import make_bundle, unpack
from prefect_parallel_run.runs.fingerprint import code_files, source_tree

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8
).filter(
    lambda name: (
        not name.startswith(".") and name not in ("score.py", "__init__.py", "pyvenv.cfg", "_parallel_run", "__pycache__")
    )
)
TREES = st.recursive(
    st.dictionaries(NAMES, st.binary(max_size=40), max_size=4),
    lambda inner: st.dictionaries(NAMES, st.binary(max_size=40) | inner, max_size=4),
    max_leaves=8,
)


def write(root, tree):
    root.mkdir(parents=True, exist_ok=True)
    for name, value in tree.items():
        if isinstance(value, dict):
            write(root / name, value)
        else:
            (root / name).write_bytes(value)
    return root


def read(root):
    """Every file below a folder, by its path."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def config(source, script="score.py", **fields):
    return ParallelRunConfig(
        entry_script=script, source_directory=source and str(source), error_threshold=0, output_action="append_row", **fields
    )


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "code", {"score.py": b"def run(m): return m"})


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A new folder for every example."""
    root = tmp_path_factory.mktemp("trees")
    numbers = iter(range(1_000_000))
    return lambda: root / str(next(numbers))


@given(tree=TREES)
def test_unpacking_restores_the_files(places, tree):
    """Equal trees produce the same bundle, regardless of time and place."""
    place = places()
    given_tree = {**tree, "score.py": b"import helper"}
    first = make_bundle(source_tree(config(write(place / "a", given_tree))), place / "bundles")
    twin = write(place / "b", dict(reversed(given_tree.items())))
    (twin / ".env").write_text("TOKEN=1")
    for path in twin.rglob("*"):
        os.utime(path, (1, 1))
    again = make_bundle(source_tree(config(twin)), place / "bundles")
    assert again == first
    assert read(unpack(place / "bundles" / first.file_name, first.sha256, place / "cache")) == read(place / "a")
    assert [path.name for path in (place / "bundles").iterdir()] == [f"bundle-{first.sha256}.zip"]


@given(tree=TREES, name=NAMES, data=st.binary(max_size=4))
def test_any_change_of_the_code_changes_the_bundle(places, tree, name, data):
    """Of a byte, or of a name; changes of ignored files do not."""
    place = places()
    source = write(place / "code", {**tree, "score.py": b"x"})
    before = read(source)
    bundle, counted = make_bundle(source_tree(config(source)), place), code_files(config(source))
    if (source / name).is_dir():
        (source / name).rename(source / "score.py.d")
    else:
        (source / name).write_bytes(data)
    is_changed = read(source) != before
    assert (make_bundle(source_tree(config(source)), place).sha256 != bundle.sha256) == is_changed
    assert (code_files(config(source)) != counted) == is_changed


def test_executable_files_stay_executable(source, tmp_path):
    """A script may run programs in its folder."""
    (source / "tool").write_text("#!/bin/sh\n")
    (source / "tool").chmod(0o755)
    bundle = make_bundle(source_tree(config(source)), tmp_path / "bundles")
    root = unpack(tmp_path / "bundles" / bundle.file_name, bundle.sha256, tmp_path / "cache")
    assert os.access(root / "tool", os.X_OK)
    assert not (root / "score.py").stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("source", "script", "expected"),
    [
        ("proj", "score.py", (".", "score.py")),
        ("proj", "tasks/score.py", (".", "tasks/score.py")),
        ("proj/pkg", "score.py", ("pkg", "pkg/score.py")),
        (None, "proj/pkg/sub/score.py", ("pkg/sub", "pkg/sub/score.py")),
        (None, "proj/score.py", (".", "score.py")),
    ],
)
def test_a_bundle_locates_the_script_and_the_importable_folder(tmp_path, monkeypatch, source, script, expected):
    """So that the script behaves on a node as in its original folder."""
    monkeypatch.chdir(tmp_path)
    package = {"__init__.py": b"", "score.py": b"", "sub": {"__init__.py": b"", "score.py": b""}}
    write(tmp_path / "proj", {"score.py": b"", "tasks": {"score.py": b""}, "pkg": package})
    bundle = make_bundle(source_tree(config(source, script)), tmp_path / "bundles")
    assert (bundle.source, bundle.script) == expected
    root = unpack(tmp_path / "bundles" / bundle.file_name, bundle.sha256, tmp_path / "cache")
    assert (root / bundle.script).is_file()
    assert not (root / "__init__.py").exists()


def test_an_ignored_script_cannot_be_bundled(source, tmp_path):
    """But it is part of the fingerprint."""
    (source / ".gitignore").write_text("*.py")
    with pytest.raises(ValueError, match=r"score\.py.*gitignore"):
        make_bundle(source_tree(config(source)), tmp_path)
    assert set(code_files(config(source))) == {"score.py"}


@pytest.mark.parametrize("kind", ["link", "folder link", "dead link", "pipe"])
def test_links_and_special_files_are_rejected_by_name(source, tmp_path, kind):
    """Unless they are ignored; their targets are not part of the code."""
    odd = source / "odd"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to({"link": source / "score.py", "folder link": source, "dead link": "nowhere"}[kind])
    with pytest.raises(ValueError, match=re.escape(str(odd))) as caught:
        make_bundle(source_tree(config(source)), tmp_path / "bundles")
    assert ("is a link" in str(caught.value)) == ("link" in kind)
    assert not (tmp_path / "bundles").exists()
    (source / ".amlignore").write_text("odd")
    make_bundle(source_tree(config(source)), tmp_path / "bundles")


def test_a_file_name_that_is_not_utf8_is_rejected(source, tmp_path):
    """Not every system could read it back from an archive."""
    (source / os.fsdecode(b"\xff")).write_text("")
    with pytest.raises(ValueError, match=r"udcff.*not valid UTF-8"):
        make_bundle(source_tree(config(source)), tmp_path / "bundles")


def test_too_large_code_is_rejected_before_it_is_read(source, tmp_path):
    """The error names the largest files and folders."""
    for name, size in (
        ("model.bin", 200 << 20),
        ("data/a", 29 << 20),
        ("data/b", 29 << 20),
        ("data/c", 29 << 20),
        ("few/a", 20 << 20),
    ):
        (source / name).parent.mkdir(exist_ok=True)
        with (source / name).open("wb") as file:
            file.truncate(size)
    with pytest.raises(ValueError, match="larger than 300 MB") as caught:
        make_bundle(source_tree(config(source)), tmp_path / "bundles", check_cancelled=pytest.fail)
    places = [str(source / name) for name in ("model.bin", "data", "few")]
    assert re.findall(rf"{re.escape(str(source))}\S* \(\d+ MB\)", str(caught.value)) == [
        f"{place} ({size} MB)" for place, size in zip(places, (200, 87, 20), strict=True)
    ]
    assert ".amlignore" in str(caught.value)
    assert "side_inputs" in str(caught.value)


def test_too_many_files_are_rejected(source, tmp_path, monkeypatch):
    """The error names the folders with the most files."""
    monkeypatch.setattr(remote_setup, "MOST_FILES", 20)
    write(source, {"many": {str(number): b"" for number in range(19)}, "few": {"a": b""}})
    with pytest.raises(ValueError, match=rf"more than 20 files.*{re.escape(str(source))}/many \(\d\d\)"):
        make_bundle(source_tree(config(source)), tmp_path / "bundles")
    (source / "few" / "a").unlink()
    make_bundle(source_tree(config(source)), tmp_path / "bundles")


@pytest.mark.parametrize("how", ["grow", "same size", "remove", "link", "add"])
def test_code_that_changes_while_it_is_read_is_read_again(source, tmp_path, how):
    """A bundle is a consistent snapshot."""
    write(source, {"a.bin": b"x" * 10, "z.bin": b"1"})
    changes = iter([how])

    def check_cancelled():
        change = next(changes, None)
        if change in ("remove", "link"):
            (source / "z.bin").unlink()
        if change == "link":
            (source / "z.bin").symlink_to("a.bin")
        elif change == "add":
            (source / "b.bin").write_bytes(b"new")
        elif change:
            (source / "a.bin").write_bytes(b"y" * (20 if change == "grow" else 10))

    if how == "link":
        with pytest.raises(ValueError, match=r"z\.bin is a link"):
            make_bundle(source_tree(config(source)), tmp_path / "bundles", check_cancelled)
    else:
        bundle = make_bundle(source_tree(config(source)), tmp_path / "bundles", check_cancelled)
        assert read(unpack(tmp_path / "bundles" / bundle.file_name, bundle.sha256, tmp_path / "cache")) == read(source)
        assert len(list((tmp_path / "bundles").iterdir())) == 1


def test_code_that_keeps_changing_is_rejected(source, tmp_path):
    """For example a log file in the source folder; no temporary file is left behind."""
    numbers = iter(range(1000))
    with pytest.raises(ValueError, match=r"changed while it was read: .*a\.log"):
        make_bundle(source_tree(config(source)), tmp_path / "b", lambda: (source / "a.log").write_text(str(next(numbers))))
    assert list((tmp_path / "b").iterdir()) == []


def test_an_error_of_check_cancelled_stops_bundling(source, tmp_path):
    """No temporary file is left behind."""

    class StopError(Exception):
        pass

    def stop():
        raise StopError

    with pytest.raises(StopError):
        make_bundle(source_tree(config(source)), tmp_path / "b", stop)
    assert list((tmp_path / "b").iterdir()) == []


def test_a_bundle_is_an_ordinary_zip_archive(source, tmp_path):
    """Its members are sorted and have no time stamps."""
    write(source, {"b": b"2", "a": b"1"})
    with zipfile.ZipFile(tmp_path / "b" / make_bundle(source_tree(config(source)), tmp_path / "b").file_name) as archive:
        assert archive.namelist() == ["a", "b", "score.py"]
        assert archive.testzip() is None
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
