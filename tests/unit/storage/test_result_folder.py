"""Result folders in a store: readers go by the manifest, and what an earlier result has left is deleted."""

import pytest

from prefect_parallel_run import OutputError
from prefect_parallel_run.storage.listing import list_files
from prefect_parallel_run.storage.manifest import MANIFEST, ResultPart, as_plain, encode, part_name, parts_in
from prefect_parallel_run.storage.result_folder import changes, check_replaceable, delete_stale, exists, with_versions

URL = "memory://test/out/r.csv"


def put(store, names, listed):
    """Store parts, and the manifest with the *listed* ones; return those."""
    for name in names:
        store.pipe_file(f"/test/out/r.csv/{name}", name.encode())
    parts = [ResultPart(name, 1, len(name), "") for name in listed]
    store.pipe_file(f"/test/out/r.csv/{MANIFEST}", encode(parts))
    return with_versions(URL, parts) if parts else ()


def listed(*paths, of_table=False):
    return [file.path.rpartition("/")[2] for file in list_files(paths, of_table=of_table)]


OLD, NEW = [part_name(n, 2, ".csv") for n in range(2)], [part_name(n, 2, ".csv", "80d950") for n in range(2)]


@pytest.mark.parametrize("of_table", [False, True])
@pytest.mark.parametrize(
    "path",
    [URL, "memory://test/out", "memory://test/out/r.csv/*.csv", "memory://test/out/r.csv/part-*.csv", "memory://test/**/*.csv"],
)
def test_readers_see_the_parts_that_the_manifest_lists(store, path, of_table):
    """Not those of a result that is being uploaded, nor those of the one before; and never the manifest."""
    put(store, [*OLD, *NEW], OLD)
    assert listed(path, of_table=of_table) == OLD
    put(store, [], NEW)
    assert listed(path, of_table=of_table) == NEW


def test_a_result_whose_first_upload_has_not_ended_is_absent(store):
    """Its manifest lists nothing."""
    put(store, OLD, [])
    assert listed("memory://test/out/*") == listed(URL) == []


def test_changes_are_found_by_version_and_by_content(store):
    """Each with the object."""
    parts = put(store, OLD, OLD)
    with pytest.raises(OutputError, match=r"part-00000.csv: has 14 bytes, but 13 were written"):
        with_versions(URL, [parts[0]._replace(bytes=13)])
    assert exists(URL)
    assert list(changes(URL, parts)) == []
    assert [line.partition(" ")[0] for line in changes(URL, parts, reads_objects=True)] == [f"{URL}/{name}" for name in OLD]
    store.pipe_file(f"/test/out/r.csv/{OLD[0]}", b"x")
    assert list(changes(URL, parts)) == [f"{URL}/{OLD[0]} was changed after it was published: its size or SHA-256 differs"]
    assert list(changes(URL, [parts[0]]))[1:] == [f"{URL}/{OLD[1]} is not a part of the result"]
    store.rm_file(f"/test/out/r.csv/{MANIFEST}")
    assert list(changes(URL, parts)) == [f"{URL} does not exist"]
    assert not exists(URL)


def test_old_parts_are_deleted_and_nothing_else(store):
    """After a folder, after a file, and never in a folder without a manifest."""
    parts = put(store, [*OLD, *NEW, "notes.txt"], NEW)
    delete_stale(URL, parts)
    assert sorted(name.rpartition("/")[2] for name in store.ls(URL, detail=False)) == [MANIFEST, "notes.txt", *NEW]
    delete_stale(URL, ())
    assert [name.rpartition("/")[2] for name in store.ls(URL, detail=False)] == ["notes.txt"]
    store.pipe_file(f"/test/out/r.csv/{OLD[0]}", b"mine")
    delete_stale(URL, ())
    assert len(store.ls(URL)) == 2


def test_a_folder_with_other_objects_is_not_replaced(store):
    """An object that has the name of the folder is an earlier result; a file of another program is not."""
    put(store, OLD, OLD)
    check_replaceable(URL)
    store.pipe_file("/test/out/r.csv/part-00000.avro", b"mine")
    with pytest.raises(OutputError, match=r"is a folder with part-00000.avro, which is not part of a result"):
        check_replaceable(URL)


def test_a_local_folder_is_compared_by_content(tmp_path):
    """A surplus file would be read with the parts."""
    (tmp_path / OLD[0]).write_text("x")
    part = ResultPart(OLD[0], 1, 1, "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881")
    assert list(changes(str(tmp_path), [part])) == []
    (tmp_path / "more.csv").touch()
    (tmp_path / OLD[0]).write_text("y")
    changed, surplus = changes(str(tmp_path), [part])
    assert "was changed after it was published" in changed
    assert surplus == f"{tmp_path}/more.csv is not a part of the result"
    assert list(changes(str(tmp_path / "missing"), [part])) == [f"{tmp_path}/missing does not exist"]
    assert list(changes(str(tmp_path / OLD[0]), [part])) == [f"{tmp_path}/{OLD[0]} does not exist"]
    check_replaceable(str(tmp_path / OLD[0]))


def test_a_manifest_survives_its_form_in_the_receipt():
    """A part of a file system has no version."""
    parts = (ResultPart("part-00000.csv", 1, 2, "abc"), ResultPart("part-00001.csv", 3, 4, "def", "tag"))
    assert parts_in(as_plain(parts)) == parts
    assert "version" not in as_plain(parts)[0]
