"""Log files stay short and few, whatever is printed."""

import os
from itertools import pairwise

import pytest

from prefect_parallel_run._rate_limit import BackoffTimer
from prefect_parallel_run.node import log_files
from prefect_parallel_run.node.log_files import ENDINGS, LogFiles, LogRetention, shorten


def test_a_cut_keeps_both_ends_and_reports_the_rest(tmp_path):
    """Also the second time; later lines are appended at the new end."""
    path = tmp_path / "out.txt"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"head" + b"a" * 996 + b"b" * 9_000 + b"tail")
        cut = shorten(str(path), 0, most=10_000, head=1_000, tail=500)
        text = path.read_bytes()
        assert text.startswith(b"head" + b"a" * 996)
        assert text.endswith(b"b" * 496 + b"tail")
        assert cut == (10_004, len(text), 10_004 - 1_500)
        assert b"\xe2\x80\xa6 8504 bytes left out here" in text
        writer.write(b"c" * 9_000)
        again = shorten(str(path), cut.left_out, most=10_000, head=1_000, tail=500)
        text = path.read_bytes()
        assert text.count(b"left out here") == 1
        assert again.left_out == 10_004 + 9_000 - 1_500
        assert f"{again.left_out} bytes".encode() in text
        writer.write(b"on")
    assert path.read_bytes() == text + b"on"


def test_short_missing_and_linked_files_are_not_cut(tmp_path):
    """A link that a script creates in place of its log is not followed."""
    path = tmp_path / "out.txt"
    assert shorten(str(path), 0) is None
    path.write_bytes(b"x" * 100)
    assert shorten(str(path), 0, most=100) is None
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic link"):
        shorten(str(tmp_path / "link"), 0, most=10, head=1, tail=1)
    assert path.stat().st_size == 100


def test_retention_keeps_the_first_and_the_newest():
    """Within the size limit, except for the files that are always kept."""
    shelf = LogRetention()
    gone = [name for number in range(100) for name in shelf.add(f"p{number}", 1)]
    assert gone == [f"p{number}" for number in range(log_files.FIRST, 100 - log_files.NEWEST)]
    shelf, most = LogRetention(), 3 * log_files.MOST
    kept = {}
    for number in range(100):
        kept[f"p{number}"] = most
        for name in shelf.add(f"p{number}", most):
            del kept[name]
        assert sum(kept.values()) <= log_files.MOST_BYTES
    assert list(kept) == ["p0", "p1", "p2", "p99"]


@pytest.fixture
def small(monkeypatch):
    """Files are long at 1000 bytes."""
    monkeypatch.setattr(log_files, "MOST", 1_000)
    monkeypatch.setattr(log_files, "shorten", lambda path, left_out: shorten(path, left_out, 1_000, 100, 200))


def test_the_log_files_of_a_node_are_bounded(tmp_path, small):
    """A process that prints and crashes repeatedly leaves the files of 23; empty ones are removed."""
    files = LogFiles(str(tmp_path))
    for number in range(60):
        process = f"node-0.0.{number}"
        for ending in ENDINGS:
            size = {".stdout.txt": 5_000, ".stderr.txt": 0, ".log": 300}[ending]
            (tmp_path / f"{process}{ending}").write_bytes(b"x" * size)
        files.shorten(process)
        files.retire(process, 0)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2 * (log_files.FIRST + log_files.NEWEST)
    assert not [name for name in left if name.endswith(".stderr.txt")]
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 1_000
    assert {f"node-0.0.{number}.log" for number in (0, 1, 2, 40, 59)} <= set(left)
    assert not files._left_out.keys() - {str(tmp_path / name) for name in left}


def test_a_cut_is_returned_and_growth_is_counted(tmp_path, small):
    """The tail must know about cuts; a node polls processes more often that print a lot."""
    files = LogFiles(str(tmp_path))
    (tmp_path / "p.stdout.txt").write_bytes(b"x" * 2_000)
    (tmp_path / "p.log").write_bytes(b"x" * 1_500)
    cut = files.shorten("p")
    assert cut.end == os.stat(tmp_path / "p.log").st_size
    assert files.grown == 3_500
    assert files.shorten("p") is None
    assert files.grown == 3_500


def test_files_of_leftover_processes_are_cut_too(tmp_path, small):
    """Processes that an ended process has started still have its file open."""
    files = LogFiles(str(tmp_path))
    with (tmp_path / "p.stdout.txt").open("ab", buffering=0) as writer:
        writer.write(b"x" * 10)
        files.retire("p", 0)
        writer.write(b"x" * 10_000)
        files.shorten_ended()
    assert (tmp_path / "p.stdout.txt").stat().st_size <= 1_000


def test_samples_become_less_frequent():
    """Every second at first; a week of them is a short file."""
    pace = BackoffTimer(0.0)
    taken = [now for now in range(7 * 24 * 3600) if pace.is_due(float(now))]
    assert taken[:3] == [0, 1, 2]
    assert [later - earlier for earlier, later in pairwise(taken)].count(1) == 599
    assert len(taken) < 7_000
    late = BackoffTimer(0.0)
    assert [late.is_due(now) for now in (100.0, 100.5, 101.0)] == [True, False, True]
