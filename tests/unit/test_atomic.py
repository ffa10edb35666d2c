"""Files and folders are written completely or not at all, and as durably as their writer asks for."""

import os
import stat

import pytest

from prefect_parallel_run._atomic import AtomicFile, atomic_folder, replace, wrap_disk_errors
from prefect_parallel_run.errors import OutputError


def test_a_file_is_replaced_at_the_end_of_the_block(tmp_path):
    """Readers never see a part of it."""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with AtomicFile(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", [None, b"old"])
def test_an_error_leaves_the_file_as_it_was(tmp_path, before):
    """And no temporary file."""
    path = tmp_path / "a"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(ZeroDivisionError), AtomicFile(path) as file:
        file.write(b"%d" % (1 / 0))
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_temporary_file_of_a_killed_process_is_overwritten(tmp_path):
    """Large files must not accumulate."""
    killed = AtomicFile(tmp_path / "a", token="run")
    killed.file.write(b"half")
    with AtomicFile(tmp_path / "a", token="run") as file:
        file.write(b"new")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"new"]
    killed.discard()


@pytest.mark.parametrize(
    ("options", "expected"), [({}, []), ({"sync": True}, ["file"]), ({"sync": True, "sync_folder": True}, ["file", "folder"])]
)
def test_what_is_synced_is_what_the_writer_asks_for(tmp_path, monkeypatch, options, expected):
    """A sync costs milliseconds: only results and the files of a resume need it."""
    synced = []

    def fsync(descriptor):
        status = os.fstat(descriptor)
        is_renamed = (tmp_path / "a").exists()
        assert is_renamed == stat.S_ISDIR(status.st_mode)
        assert stat.S_ISDIR(status.st_mode) or status.st_size == 3
        synced.append("folder" if is_renamed else "file")

    monkeypatch.setattr(os, "fsync", fsync)
    with AtomicFile(tmp_path / "a", **options) as file:
        file.write(b"new")
    assert synced == expected


def test_a_private_file_is_never_readable_by_others(tmp_path):
    """Neither the temporary file nor the final one."""
    with AtomicFile(tmp_path / "a", mode=0o600) as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_appears_at_the_end_of_the_block(tmp_path, exists):
    """An empty folder is replaced."""
    path = tmp_path / "above" / "a"
    if exists:
        path.mkdir(parents=True)
    with atomic_folder(path) as folder:
        (folder / "b").touch()
        assert not (path / "b").exists()
    assert [entry.name for entry in path.iterdir()] == ["b"]
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_no_folder(tmp_path):
    """Neither the folder nor the temporary one."""
    with pytest.raises(IsADirectoryError), atomic_folder(tmp_path / "a") as folder:
        folder.write_bytes(b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_not_replaced(tmp_path):
    """Its files stay."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").touch()
    with pytest.raises(OSError, match="not empty"), atomic_folder(tmp_path / "a"):
        pass
    assert [entry.name for entry in tmp_path.rglob("*")] == ["a", "mine"]


def test_a_disk_error_names_the_file(tmp_path):
    """And the reason that the operating system gives."""
    path = tmp_path / "missing" / "a"
    with pytest.raises(OutputError) as caught, wrap_disk_errors(path), AtomicFile(path):
        pass
    assert str(caught.value) == f"output {path}: cannot be written: No such file or directory"


@pytest.mark.parametrize("kinds", ["folder folder", "folder file", "file folder", "folder link"])
@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_file_or_folder_replaces_either(tmp_path, kinds, can_exchange, monkeypatch):
    """Its content and nothing of the old one; a link is replaced, not the folder that it names."""
    if not can_exchange:
        monkeypatch.setattr("prefect_parallel_run._atomic._exchange", lambda *_: False)
    source, target, other = tmp_path / "new", tmp_path / "a", tmp_path / "other"
    other.mkdir()
    (other / "mine").touch()
    for path, kind in zip((source, target), kinds.split(), strict=True):
        if kind == "folder":
            path.mkdir()
            (path / path.name).touch()
        elif kind == "link":
            path.symlink_to(other)
        else:
            path.write_text(path.name)
    replace(source, target, even_folders=True)
    if kinds.startswith("folder"):
        assert [entry.name for entry in target.iterdir()] == ["new"]
    else:
        assert target.read_text() == "new"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "other"]
    assert (other / "mine").exists()


def test_a_folder_stays_if_it_cannot_be_replaced(tmp_path, monkeypatch):
    """The new one does not exist."""
    monkeypatch.setattr("prefect_parallel_run._atomic._exchange", lambda *_: False)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    with pytest.raises(FileNotFoundError):
        replace(tmp_path / "missing", tmp_path / "a", even_folders=True)
    assert [entry.name for entry in tmp_path.rglob("*")] == ["a", "old"]
