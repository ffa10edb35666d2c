"""The cache folder of a machine: found or made, and nobody else's."""

import os
import tempfile

import pytest

from prefect_parallel_run.node.environments import cache_folder


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A home, and a folder for temporary files, of the test's own."""
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.delenv("PREFECT_PARALLEL_RUN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


def test_the_cache_is_in_the_usual_folder(world, monkeypatch):
    """In the home, in XDG's folder, or in that of the variable; private to its owner."""
    assert cache_folder() == world / "home" / ".cache" / "prefect_parallel_run"
    monkeypatch.setenv("XDG_CACHE_HOME", str(world / "xdg"))
    assert cache_folder() == world / "xdg" / "prefect_parallel_run"
    monkeypatch.setenv("PREFECT_PARALLEL_RUN_CACHE", "~/ours/deep")
    assert cache_folder() == cache_folder() == world / "home" / "ours" / "deep"
    assert cache_folder().stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("why", ["a file is in the way", "no home", "relative"])
def test_without_a_home_the_cache_is_a_temporary_folder(world, monkeypatch, why):
    """As in a container that runs under any user id; private there too."""
    if why == "a file is in the way":
        (world / "home" / ".cache").write_text("")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "caches" if why == "relative" else "/proc/none")
    found = cache_folder()
    assert found == world / "temporary" / f"prefect_parallel_run-{os.getuid()}"
    assert found.stat().st_mode & 0o777 == 0o700


def test_an_unusable_configured_cache_is_an_error(world, monkeypatch):
    """The error gives the reason."""
    (world / "file").write_text("")
    monkeypatch.setenv("PREFECT_PARALLEL_RUN_CACHE", str(world / "file"))
    with pytest.raises(OSError, match="file"):
        cache_folder()
    open_to_all = world / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    monkeypatch.setenv("PREFECT_PARALLEL_RUN_CACHE", str(open_to_all))
    with pytest.raises(PermissionError, match="is writable by everyone; set PREFECT_PARALLEL_RUN_CACHE"):
        cache_folder()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_an_error(world, monkeypatch):
    """The error contains its path."""
    (world / "closed").mkdir(mode=0o500)
    monkeypatch.setenv("PREFECT_PARALLEL_RUN_CACHE", str(world / "closed"))
    with pytest.raises(PermissionError, match="closed cannot be written"):
        cache_folder()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_cache_of_another_user_is_refused(world, monkeypatch):
    """As is another user's link: code in the cache runs with this user's rights."""
    theirs = world / "theirs"
    theirs.mkdir()
    os.chown(theirs, 4321, 4321)
    monkeypatch.setenv("PREFECT_PARALLEL_RUN_CACHE", str(theirs))
    with pytest.raises(PermissionError, match="belongs to another user"):
        cache_folder()
    link = world / "link"
    (world / "ours").mkdir()
    link.symlink_to(world / "ours")
    os.chown(link, 4321, 4321, follow_symlinks=False)
    monkeypatch.setenv("PREFECT_PARALLEL_RUN_CACHE", str(link))
    with pytest.raises(PermissionError, match="belongs to another user"):
        cache_folder()
