"""Listings expand folders and globs: each file once, in order, with bounded memory."""

import os
import tempfile
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run.errors import InputError
from prefect_parallel_run.models import PlannedBatch
from prefect_parallel_run.planning.plan import Spool
from prefect_parallel_run.planning.planner import PlanWriter
from prefect_parallel_run.storage import folders as module
from prefect_parallel_run.storage.folders import FileBlock, ListedFile
from prefect_parallel_run.storage.listing import Listing, list_files
from prefect_parallel_run.storage.paths import absolute_path

NAMES = ["b", "a/z", "a.txt", "a/b/c", "a-b", "line\nbreak", "ü", "zz/" + "x" * 200, "a b", os.fsdecode(b"no\xfftext"), "~"]


@pytest.mark.parametrize("most", [1, 2, 3, 7, 1000])
def test_a_folder_with_too_many_names_is_listed_in_order(tmp_path, monkeypatch, most):
    """Names are merged from temporary files in the order of whole paths, whatever bytes they contain."""
    monkeypatch.setattr(module, "_MOST_NAMES", most)
    monkeypatch.setattr(module, "_SPILL_BLOCK", 5)
    for name in [*NAMES, ".hidden", "_parallel_run/x"]:
        path = os.path.join(tmp_path, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w"):
            pass
    found = [file.path for file in list_files([str(tmp_path)])]
    assert found == sorted(f"{tmp_path}/{name}" for name in NAMES)


PATHS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=()), min_size=1)


@given(st.lists(st.builds(ListedFile, PATHS, st.integers(0), st.integers()), min_size=1))
def test_the_columns_of_a_block_are_read_back_from_its_lines(listed):
    """Paths may contain newlines and bytes that are not text."""
    block = FileBlock.of_files(listed)
    assert FileBlock.of_lines(block.lines) == block
    assert list(block.files()) == listed


@given(st.lists(st.lists(st.text("abc", min_size=1), min_size=1).map(sorted), min_size=1), st.integers(1, 4))
def test_sorted_runs_are_merged_for_every_block_size(runs, size):
    """A list of names ends where every run still has its next name."""
    blocks = [iter([run[start : start + size] for start in range(0, len(run), size)]) for run in runs]
    merged = list(module._merged(blocks, ExitStack()))
    assert [name for names in merged for name in names] == sorted(name for run in runs for name in run)


def test_linked_folders_are_followed_in_folders_and_globs(tmp_path):
    """A folder and its ``**`` list the same files; circular links end, even two in one folder."""
    inputs, real = tmp_path / "in", tmp_path / "real"
    for folder in (inputs / "sub", real):
        folder.mkdir(parents=True)
        (folder / "a.txt").touch()
    (inputs / "linked").symlink_to(real)
    (real / "back").symlink_to(inputs)
    for name in ("loop-1", "loop-2"):
        (inputs / "sub" / name).symlink_to(inputs)
    expected = [f"{inputs}/{name}" for name in ("linked/a.txt", "sub/a.txt")]
    assert [file.path for file in list_files([str(inputs)])] == expected
    for pattern in ("**", "**/a.txt", "**/**", "**/*.txt", "**/*"):
        assert [file.path for file in list_files([f"{inputs}/{pattern}"])] == expected, pattern


def test_tables_skip_files_beside_the_data(tmp_path):
    """Folders and globs skip names with a leading ``_``; literal names and hive folders are kept."""
    for name in ("a.csv", "_SUCCESS", "_metadata", "_temporary/b.csv", "_k=1/c.csv", "k=1/_committed_1", "_=/x"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()

    def names(*given_paths):
        tables = [f"{tmp_path}{one}" for one in given_paths]
        return [file.path[len(str(tmp_path)) + 1 :] for file in list_files(tables, of_table=True)]

    assert names("") == names("/**") == ["_k=1/c.csv", "a.csv"]
    assert names("/*") == ["a.csv"]
    assert names("", "/_metadata") == ["_k=1/c.csv", "_metadata", "a.csv"]
    assert names("/_temporary") == names("/_temporary/*") == names("/_temp*/*.csv") == ["_temporary/b.csv"]


@pytest.mark.parametrize("pattern", ["", "/**"])
@pytest.mark.parametrize("below", ["", "/t"])
def test_a_delta_table_is_an_error(tmp_path, pattern, below):
    """Its folder may contain outdated files."""
    log = tmp_path / "t" / "_delta_log"
    log.mkdir(parents=True)
    (log / "0.json").touch()
    with pytest.raises(InputError, match="/t: is a Delta table"):
        list(list_files([f"{tmp_path}{below}{pattern}"], of_table=True))


@pytest.mark.parametrize("name", ["t", "t/data", "t/data/"])
def test_the_folder_of_an_iceberg_table_is_an_error(tmp_path, name):
    """Not all of its files are current; a single one can be read."""
    for folder, file in (("metadata", "0-a.metadata.json"), ("data", "x.parquet")):
        (tmp_path / "t" / folder).mkdir(parents=True)
        (tmp_path / "t" / folder / file).touch()
    with pytest.raises(InputError, match=r"is an Iceberg table: its metadata .*from_iceberg_table"):
        list(list_files([f"{tmp_path}/{name}"], of_table=True))
    assert len(list(list_files([f"{tmp_path}/t/data/x.parquet"], of_table=True))) == 1


@given(st.lists(st.sampled_from(["..", "real", "sub", "link", "."]), max_size=8))
def test_an_absolute_path_has_the_meaning_of_the_given_path(parts):
    """``..`` after a link is the parent of its target; a path that does not exist is kept."""
    with tempfile.TemporaryDirectory() as top:
        for folder in ("real/sub/sub", "sub/real"):
            os.makedirs(f"{top}/{folder}")
        for folder in ("", "/real", "/sub"):
            os.symlink(f"{top}/real/sub", f"{top}{folder}/link")
        given_path = "/".join([top, *parts])
        found = absolute_path(given_path)
        assert os.path.exists(found) == os.path.exists(given_path)
        if os.path.exists(found):
            assert os.path.samefile(found, given_path)
            assert ".." not in found.split("/")


def test_the_hash_is_that_of_the_latest_complete_listing(files):
    """An interrupted iteration does not change it."""
    listing = Listing([str(files)])
    next(iter(listing))
    assert listing.sha256 == ""
    first = listing.exhaust()
    assert Listing([str(files)]).exhaust() == first
    (files / "f000.txt").write_text("another text")
    assert listing.exhaust() != first


def test_a_listing_can_be_stopped(files):
    """check_cancelled raises."""

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Listing([str(files)], stop).exhaust()


def test_a_closed_plan_accepts_no_more_groups(tmp_path):
    """Another thread may flush while planning fails."""
    spool = Spool(tmp_path / "spool")
    writer = PlanWriter(tmp_path / "plan.parquet", spool.append)

    def plan_and_fail():
        with writer:
            writer.add("x", PlannedBatch(1, 1, "{}"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        plan_and_fail()
    writer.flush()
    assert spool.works(0, 0) == []
    assert list(spool.mini_batches()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spool"]
    spool.close()
