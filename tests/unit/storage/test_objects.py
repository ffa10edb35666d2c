"""Object stores, with fsspec's memory file system: listing, objects, and the copy of a run directory."""

import json
import os
import random
from pathlib import Path

import pytest

from prefect_parallel_run import FileDataset, TabularDataset
from prefect_parallel_run.child.storage import InputChanged, check, open_file, read_range
from prefect_parallel_run.errors import InputError, OutputError, RunLockedError
from prefect_parallel_run.models import Receipt
from prefect_parallel_run.node.prefetch import local_name
from prefect_parallel_run.runs import mirror as module
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.mirror import RunMirror, pull, pull_runs
from prefect_parallel_run.runs.run_directory import RunDirectory, write_json
from prefect_parallel_run.storage import objects
from prefect_parallel_run.storage.listing import Listing, list_files
from prefect_parallel_run.storage.objects import find_object

ROOT = "memory://test"


def names(*paths):
    return [file.path.removeprefix("memory://test/") for file in list_files(paths)]


def test_objects_are_listed_in_the_order_of_their_names(store):
    """A folder sorts where the names below it do, as with files."""
    for name in ("b.txt", "a/z", "a.txt", "a/b/c", "a-b", ".hidden", "x/.y/z", "_parallel_run/r/x"):
        store.pipe_file(f"/test/in/{name}", b"1")
    assert names(f"{ROOT}/in") == sorted(["in/a-b", "in/a.txt", "in/a/b/c", "in/a/z", "in/b.txt"])
    assert names(f"{ROOT}/in/", f"{ROOT}/in/a") == names(f"{ROOT}/in")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("in/*.csv", ["in/1.csv", "in/2.csv"]),
        ("in/?.txt", ["in/3.txt"]),
        ("in/[13].*", ["in/1.csv", "in/3.txt"]),
        ("**/*.csv", ["in/1.csv", "in/2.csv", "in/deep/5.csv", "in/deep/er/4.csv"]),
        ("in/*/*.csv", ["in/deep/5.csv"]),
        ("i*/de*/5.csv", ["in/deep/5.csv"]),
        ("none/*", []),
    ],
)
def test_one_star_matches_within_a_segment(store, pattern, found):
    """Two stars match deeper."""
    for name in ("1.csv", "2.csv", "3.txt", "deep/er/4.csv", "deep/5.csv"):
        store.pipe_file(f"/test/in/{name}", b"1")
    assert names(f"{ROOT}/{pattern}") == found


def test_a_changed_object_is_detected(store):
    """It is detected by size and version; a deleted object is named."""
    store.pipe_file("/test/a", b"12345")
    (found,) = Listing([f"{ROOT}/a"])
    check(*found)
    assert (open_file(found.path).read(), read_range(found.path, 1, 3)) == (b"12345", b"23")
    store.pipe_file("/test/a", b"54321")
    with pytest.raises(InputChanged, match="has been modified"):
        check(*found)
    store.pipe_file("/test/a", b"1")
    with pytest.raises(InputChanged, match="has 1 bytes, but had 5 when"):
        check(*found)
    store.rm("/test/a")
    with pytest.raises(InputChanged, match="has been removed"):
        check(*found)
    assert find_object(f"{ROOT}/a") is None


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ([f"{ROOT}/none"], "does not exist"),
        (["nowhere://a"], "Protocol not known: nowhere"),
        (["/local", f"{ROOT}/a"], "must be all local, or all in one kind of store"),
    ],
)
def test_listing_errors_name_the_url(store, paths, words):
    """They contain the message of the store's library."""
    with pytest.raises(InputError, match=words):
        list(FileDataset.from_files(paths).cuts(1))


def test_tables_in_a_store_are_planned_and_read(store):
    """The code is the same as for files."""
    store.pipe_file("/test/t.csv", b"a,b\n" + b"".join(b"%d,x%d\n" % (n, n) for n in range(100)))
    cuts = list(TabularDataset.from_delimited_files(f"{ROOT}/t.csv").cuts(100))
    assert sum(cut.items for cut in cuts) == 100
    assert len(cuts) > 3
    assert json.loads(cuts[0].work)["path"] == "memory://test/t.csv"


def test_names_of_local_copies_are_safe():
    """A key may contain anything."""
    for name in ("a/..", "..", "x/.", "long/" + "n" * 300 + ".png", "plain.png", "ü b"):
        local = local_name(name)
        assert local not in ("", ".", "..")
        assert "/" not in local
        assert len(os.fsencode(local)) <= 255
    assert local_name("long/" + "n" * 300 + ".png").endswith(".png")


def test_objects_are_written_atomically_and_read_back(store, tmp_path):
    """No temporary object remains."""
    (tmp_path / "f").write_bytes(b"abc" * 1000)
    objects.upload(tmp_path / "f", f"{ROOT}/deep/f")
    assert objects.names_below(f"{ROOT}/deep") == {"f": 3000}
    assert objects.size_of(f"{ROOT}/deep/f") == 3000
    assert objects.file_sha256(f"{ROOT}/deep/f") == objects.file_sha256(tmp_path / "f")
    objects.write(f"{ROOT}/x", b"1", only_new=True)
    with pytest.raises(FileExistsError):
        objects.write(f"{ROOT}/x", b"2", only_new=True)
    assert objects.read(f"{ROOT}/x") == b"1"
    assert objects.size_and_version(f"{ROOT}/none") is None
    assert objects.size_of(f"{ROOT}/none") is None
    objects.remove_below(f"{ROOT}/deep")
    assert objects.names_below(f"{ROOT}/deep") == {}


def nothing():
    """Does not cancel."""


def make_run(path: Path) -> RunDirectory:
    directory = RunDirectory(path)
    directory.make()
    write_json(directory.description, {"created": "2024-01-01T00:00:00Z", "identity": {}})
    Ledger.create(directory.ledger, [1] * 50).close()
    return directory


def committed(number: int, part: str, offset: int, length: int) -> Receipt:
    return Receipt(number, 1, "succeeded", 1, 1, 0, 1, part, offset, 0, length, 0, 0.0, 0.0)


def part_bytes(directory: RunDirectory) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.parts.iterdir()}


def test_a_copy_is_consistent_at_any_moment(store, tmp_path, monkeypatch):
    """Parts grow during the upload: every range in the uploaded ledger must be in the store."""
    monkeypatch.setattr(module, "_PIECE", 1000)
    directory = make_run(tmp_path / "run")
    mirror = RunMirror(directory, f"{ROOT}/out/_parallel_run/run", pytest.fail)
    mirror.begin(nothing)
    chance = random.Random(1)
    with Ledger(directory.ledger) as ledger:
        for number in range(20):
            part = directory.parts / f"p{chance.randrange(3)}.part"
            start, length = part.stat().st_size if part.exists() else 0, chance.randrange(1, 5000)
            with part.open("ab") as file:
                file.write(bytes([number]) * length)
            ledger.commit([(committed(number, part.name, start, length), "succeeded")])
            with part.open("ab") as file:
                file.write(b"torn")  # of a try that was not committed, or not yet
            mirror._push(nothing, is_last=False)
            pull(f"{ROOT}/out/_parallel_run/run", tmp_path / f"copy{number}")
            copy = RunDirectory(tmp_path / f"copy{number}")
            with Ledger(copy.ledger) as there:
                assert list(there.places()) == list(ledger.places())
                for place in there.places():
                    here = (directory.parts / place.part).read_bytes()[place.offset :][: place.length]
                    assert (copy.parts / place.part).read_bytes()[place.offset :][: place.length] == here
    mirror.close()


def test_a_run_is_resumed_from_its_copy(store, tmp_path):
    """A second machine resumes it, and then the first one again, whose folder is no longer the newest."""
    url = f"{ROOT}/out/_parallel_run/run"
    first = make_run(tmp_path / "one" / "run")
    (first.parts / "a.part").write_bytes(b"1" * 10)
    with Ledger(first.ledger) as ledger:
        ledger.commit([(committed(0, "a.part", 0, 10), "succeeded")])
    mirror = RunMirror(first, url, pytest.fail)
    mirror.begin(nothing)
    mirror.close()
    pull_runs(f"{ROOT}/out/_parallel_run", "ru", tmp_path / "two")
    second = RunDirectory(tmp_path / "two" / "run")
    assert part_bytes(second) == {"a.part": b"1" * 10}
    mirror = RunMirror(second, url, pytest.fail)
    mirror.begin(nothing)
    (second.parts / "r2.part").write_bytes(b"2")
    with Ledger(second.ledger) as ledger:
        ledger.commit([(committed(1, "r2.part", 0, 1), "succeeded")])
    mirror.close()
    pull(url, first.path)
    assert part_bytes(first) == {"a.part": b"1" * 10, "r2.part": b"2"}
    (first.parts / "kept").write_bytes(b"")
    pull(url, second.path)  # was executed here last: stays
    assert second.path.joinpath("mirror-token").exists()


def test_two_machines_do_not_execute_the_same_run(store, tmp_path, monkeypatch):
    """The error of the second one names the first; a stale lock does not count."""
    url = f"{ROOT}/out/_parallel_run/run"
    mirror = RunMirror(make_run(tmp_path / "one"), url, pytest.fail)
    mirror.begin(nothing)
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    other = RunMirror(make_run(tmp_path / "two"), url, pytest.fail)
    with pytest.raises(RunLockedError, match=f"process {os.getpid()}"):
        other.begin(nothing)
    monkeypatch.setattr(module, "_STALE", 0.0)
    other.begin(nothing)
    other.close()
    monkeypatch.undo()
    mirror.close()


def test_errors_of_the_store_are_reported(store, tmp_path, monkeypatch):
    """They are warnings while the run executes, and an error at its end."""
    directory = make_run(tmp_path / "run")
    mirror = RunMirror(directory, f"{ROOT}/out/_parallel_run/run", pytest.fail)
    mirror.begin(nothing)

    def refuse(*_, **__):
        raise PermissionError("no")

    monkeypatch.setattr(type(store), "put_file", refuse)
    (directory.parts / "p").write_bytes(b"1")
    with pytest.raises(OutputError, match=r"ledger.sqlite: cannot be written: PermissionError: no"):
        mirror.finish(nothing)
    mirror.close()
    directory.ledger.write_bytes(b"no ledger at all" * 100)
    with pytest.raises(OutputError, match="cannot be copied"):
        module._copy_ledger(directory.ledger, tmp_path / "copy")
