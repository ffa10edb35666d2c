"""A large folder is listed by a subprocess: with the same files in the same order, and the same errors."""

import os

import psutil
import pytest

from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage import folders
from prefect_parallel_run.storage.folders import ListedFile, files_below
from prefect_parallel_run.storage.listing import Listing

from ..processes import command_line

NAMES = ["b", "a/z", "a.txt", "a/b/c", "a-b", "line\nbreak", "ü", "zz/" + "x" * 200, "a b", os.fsdecode(b"no\xfftext"), "~"]


@pytest.fixture
def tree(tmp_path):
    for number, name in enumerate([*NAMES, ".hidden", "_parallel_run/x"]):
        path = os.path.join(tmp_path, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write("x" * number)
    return f"{tmp_path}/"


def listers():
    return [child for child in psutil.Process().children() if "storage.folders" in command_line(child)]


@pytest.mark.parametrize("here", range(len(NAMES) + 1))
def test_the_subprocess_continues_after_any_number_of_files(tree, monkeypatch, here):
    """Even inside a subfolder no file is missing, and none is listed twice."""
    whole = list(files_below(tree))
    assert [file.path for file in whole] == sorted(tree + name for name in NAMES)
    monkeypatch.setattr(folders, "_MOST_IN_PROCESS", here)
    assert list(files_below(tree)) == whole
    assert not listers()


def test_more_files_than_fit_into_one_block(tmp_path, monkeypatch):
    """A few thousand files keep their sizes and times."""
    monkeypatch.setattr(folders, "_MOST_IN_PROCESS", 10)
    for number in range(2_000):
        (tmp_path / f"{number:05d}").write_text("x" * (number % 7))
    found = list(files_below(f"{tmp_path}/"))
    assert len(found) == 2_000
    status = (tmp_path / "01234").stat()
    assert found[1234] == ListedFile(str(tmp_path / "01234"), status.st_size, status.st_mtime_ns)


def test_a_broken_link_is_named(tree, monkeypatch):
    """It has no size."""
    os.symlink("/nowhere", f"{tree}zzz")
    monkeypatch.setattr(folders, "_MOST_IN_PROCESS", 3)
    with pytest.raises(InputError, match=r"zzz: cannot be read: No such file"):
        list(files_below(tree))
    assert not listers()


def test_an_abandoned_listing_leaves_no_process(tree, monkeypatch):
    """Closing the iterator kills the subprocess."""
    monkeypatch.setattr(folders, "_MOST_IN_PROCESS", 3)
    listing = files_below(tree)
    assert len([next(listing) for _ in range(5)]) == 5
    listing.close()
    assert not listers()


def test_a_listing_whose_process_is_killed_is_an_error(tmp_path, monkeypatch):
    """An incomplete listing must not look complete."""
    monkeypatch.setattr(folders, "_MOST_IN_PROCESS", 3)
    for number in range(100_000):
        os.close(os.open(tmp_path / f"{number:06d}", os.O_CREAT | os.O_WRONLY))
    listing = files_below(f"{tmp_path}/")
    assert len([next(listing) for _ in range(5)]) == 5
    (lister,) = listers()
    lister.kill()
    with pytest.raises(InputError, match="the listing process exited early"):
        list(listing)


def test_a_cancelled_listing_leaves_no_process(tree, monkeypatch):
    """Not even while its exception is referenced, as Prefect does for failed tasks."""
    monkeypatch.setattr(folders, "_MOST_IN_PROCESS", 3)
    beats = []

    def stop():
        beats.append(1)
        if len(beats) > 1:
            raise KeyboardInterrupt

    for number in range(100):
        open(f"{tree}more{number}", "w").close()
    with pytest.raises(KeyboardInterrupt) as kept:
        Listing([tree], stop).exhaust()
    assert kept.value.__traceback__ is not None
    assert not listers()
    beats.clear()
    with pytest.raises(KeyboardInterrupt) as kept:
        Listing([tree, f"{tree}a"], stop).exhaust()
    assert not listers()
