"""The files by which a run is controlled: every line comes once and whole, whatever else is written there."""

import os
import random

import pytest

from prefect_parallel_run.runs.commands import LONGEST
from prefect_parallel_run.runs.control_files import LineTail, answer, answer_in, append


@pytest.fixture
def path(tmp_path):
    return tmp_path / "control.jsonl"


def taken(lines):
    return [line for _, line in lines.take()]


def test_lines_come_once_and_where_they_begin(path):
    """A line may come in parts; nothing is there before the file is."""
    lines = LineTail(path)
    assert taken(lines) == []
    path.write_bytes(b"one\n\n  \ntwo\nthr")
    assert list(lines.take()) == [(0, b"one"), (8, b"two")]
    assert taken(lines) == []
    with path.open("ab") as file:
        file.write(b"ee\nfour\n")
    assert list(lines.take()) == [(12, b"three"), (18, b"four")]
    assert taken(lines) == []


def test_a_line_that_somebody_did_not_end_spoils_no_other(path):
    """Who appends ends it."""
    path.write_bytes(b"half")
    append(path, b"whole\n")
    assert taken(LineTail(path)) == [b"half", b"whole"]


def test_a_line_too_long_is_told_once_by_its_beginning(path):
    """However long it is, no more of it is held."""
    lines = LineTail(path)
    path.write_bytes(b"x" * 300_000)
    found = [line for _ in range(10) for line in taken(lines)]
    assert found == [b"x" * (LONGEST + 1)]
    with path.open("ab") as file:
        file.write(b"xx\nnext\n")
    assert [line for _ in range(3) for line in taken(lines)] == [b"next"]


def test_much_comes_in_parts(path):
    """Seeded: lines of any length, over several looks."""
    chance = random.Random(1)
    written = [bytes([97 + number % 26]) * chance.randrange(1, LONGEST) for number in range(200)]
    path.write_bytes(b"".join(line + b"\n" for line in written))
    lines = LineTail(path)
    assert [line for _ in range(50) for line in taken(lines)] == written


def test_a_file_that_is_begun_anew_is_read_from_there(path):
    """Somebody has emptied it."""
    lines = LineTail(path)
    path.write_bytes(b"a long line\n")
    taken(lines)
    path.write_bytes(b"b\n")
    assert taken(lines) == [b"b"]


def test_what_is_no_plain_file_has_no_lines(path, tmp_path):
    """A pipe would hold the run up, a link leads elsewhere."""
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


def test_an_answer_is_found_by_the_order_it_belongs_to(path):
    """Among those to others."""
    lines = LineTail(path)
    answer(path, "a", applied=True, words="done", at=1.0)
    answer(path, "b", applied=False, words="not a", at=2.0)
    assert answer_in(lines, "b") == {"id": "b", "applied": False, "answer": "not a", "at": 2.0}
    assert answer_in(lines, "b") is None
