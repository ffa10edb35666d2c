"""The files that control a run: every line is read once and complete, whatever else is written there."""

import os
import random

import pytest

from prefect_parallel_run.runs.commands import LONGEST, LineTail, answer, append, find_answer


@pytest.fixture
def path(tmp_path):
    return tmp_path / "control.jsonl"


def taken(lines):
    return [line for _, line in lines.take()]


def test_each_line_is_yielded_once_with_its_offset(path):
    """A line may arrive in parts, and the file may not exist yet."""
    lines = LineTail(path)
    assert taken(lines) == []
    path.write_bytes(b"one\n\n  \ntwo\nthr")
    assert list(lines.take()) == [(0, b"one"), (8, b"two")]
    assert taken(lines) == []
    with path.open("ab") as file:
        file.write(b"ee\nfour\n")
    assert list(lines.take()) == [(12, b"three"), (18, b"four")]
    assert taken(lines) == []


def test_an_incomplete_line_does_not_damage_the_next(path):
    """The next writer terminates it."""
    path.write_bytes(b"half")
    append(path, b"whole\n")
    assert taken(LineTail(path)) == [b"half", b"whole"]


def test_of_an_overlong_line_only_the_first_part_is_yielded(path):
    """The rest is not kept in memory."""
    lines = LineTail(path)
    path.write_bytes(b"x" * 300_000)
    found = [line for _ in range(10) for line in taken(lines)]
    assert found == [b"x" * (LONGEST + 1)]
    with path.open("ab") as file:
        file.write(b"xx\nnext\n")
    assert [line for _ in range(3) for line in taken(lines)] == [b"next"]


def test_many_lines_are_read_in_blocks(path):
    """Seeded: lines of any length, over several reads."""
    chance = random.Random(1)
    written = [bytes([97 + number % 26]) * chance.randrange(1, LONGEST) for number in range(200)]
    path.write_bytes(b"".join(line + b"\n" for line in written))
    lines = LineTail(path)
    assert [line for _ in range(50) for line in taken(lines)] == written


def test_a_truncated_file_is_read_from_the_start(path):
    """Another process may have truncated it."""
    lines = LineTail(path)
    path.write_bytes(b"a long line\n")
    taken(lines)
    path.write_bytes(b"b\n")
    assert taken(lines) == [b"b"]


def test_only_regular_files_are_read(path, tmp_path):
    """A pipe would block the run, and a link could lead to any file."""
    os.mkfifo(path)
    assert taken(LineTail(path)) == []
    path.unlink()
    path.symlink_to(tmp_path / "other")
    (tmp_path / "other").write_bytes(b"line\n")
    assert taken(LineTail(path)) == []
    with pytest.raises(OSError, match="symbolic"):
        append(path, b"line\n")
    path.unlink()
    path.mkdir()
    assert taken(LineTail(path)) == []


def test_an_answer_is_found_by_the_id_of_its_command(path):
    """The file contains answers to other commands too."""
    lines = LineTail(path)
    answer(path, "a", "done", applied=True, at=1.0)
    answer(path, "b", "not a", applied=False, at=2.0)
    assert find_answer(lines, "b") == {"id": "b", "applied": False, "answer": "not a", "at": 2.0}
    assert find_answer(lines, "b") is None
