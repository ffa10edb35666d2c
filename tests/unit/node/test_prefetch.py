"""The files of a lease arrive in order, a little ahead of their mini-batches."""

import queue
from contextlib import suppress
from pathlib import Path

import pytest

from prefect_parallel_run.node import prefetch
from prefect_parallel_run.node.prefetch import Fetched, LeaseFiles
from prefect_parallel_run.node.slot import RecallRequest, Work

WORKS = [Work(number, 1, b"") for number in range(10, 15)]


@pytest.fixture
def begun(monkeypatch):
    """The mini-batches whose files have been fetched, as they are; each has one file."""
    numbers = queue.SimpleQueue()

    def fetch(work, folder):
        with suppress(FileNotFoundError):  # close() may remove the folder meanwhile
            folder.mkdir(parents=True)
            (folder / "file").touch()
        numbers.put(work.mini_batch)
        return Fetched(work, folder, None)

    monkeypatch.setattr(prefetch, "_fetched", fetch)
    return numbers


@pytest.fixture
def files(begun, tmp_path):
    made = LeaseFiles(WORKS, str(tmp_path))
    yield made
    made.close()


def test_two_mini_batches_are_fetched_ahead(files, begun, tmp_path):
    """More would fill the node's disk."""
    assert [begun.get(timeout=300) for _ in range(2)] == [10, 11]
    with pytest.raises(queue.Empty):
        begun.get(timeout=0.2)
    arrived = files.each(lambda: None, RecallRequest())
    for number in range(10, 15):
        fetched = next(arrived)
        assert (fetched.work.mini_batch, Path(fetched.folder, "file").exists()) == (number, True)
        if number < 13:
            assert begun.get(timeout=300) == number + 2
    assert list(arrived) == []
    files.close()
    assert not list(tmp_path.iterdir())


def test_a_recall_returns_the_mini_batches_that_have_not_arrived(files):
    """The one that is running counts."""
    recall = RecallRequest()
    arrived = files.each(lambda: None, recall)
    assert next(arrived).work.mini_batch == 10
    answer = recall.request(at_once=False)
    assert list(arrived) == []
    assert answer.result(0) == 11


def test_waiting_ends_with_the_run(tmp_path, monkeypatch):
    """A store may hang."""

    class StoppedError(Exception):
        pass

    def stop():
        raise StoppedError

    gate = queue.SimpleQueue()
    monkeypatch.setattr(prefetch, "_fetched", lambda work, folder: Fetched(work, folder, gate.get()))
    files = LeaseFiles(WORKS, str(tmp_path))
    with pytest.raises(StoppedError):
        next(files.each(stop, RecallRequest()))
    files.close()
    gate.put(None)
