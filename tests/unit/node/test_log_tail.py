"""What scripts log, from the file to the flow process: put together, counted, each message once."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run._rate_limit import RateLimiter
from prefect_parallel_run.dispatch.node_output import ScriptLogCollector
from prefect_parallel_run.node.log_files import IN_ALL, PER_SECOND, Record, Records, ScriptLines, Tail, shorten
from prefect_parallel_run.runs.events import ScriptLogged


def line(text, level="INFO"):
    return f"2025-01-02T03:04:05.678Z 77 {level} {text}\n"


TALK = (
    line("begin")
    + line("trouble\nTraceback (most recent call last):\n  File …\n\nValueError: x", "ERROR")
    + line("odd", "Level 25")
    + line("named", "NOTICE")
    + line("")
)
TOLD = [
    Record(20, "begin", 1),
    Record(40, "trouble\nTraceback (most recent call last):\n  File …\n\nValueError: x", 5),
    Record(25, "odd", 1),
    Record(20, "named", 1),
    Record(20, "", 1),
]


@given(st.lists(st.integers(0, len(TALK.encode())), max_size=6))
def test_records_do_not_depend_on_read_boundaries(cuts):
    """A traceback stays with its message."""
    data, records, found = TALK.encode(), Records(), []
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        found += records.feed(data[start:stop])
    assert found + records.finish() == TOLD


def test_long_records_are_truncated():
    """Memory stays bounded for one endless line or a million lines."""
    records = Records()
    for _ in range(1_000):
        assert records.feed(b"x" * 10_000) == []
    (found,) = records.finish()
    assert len(found.text) < 4_100
    assert found.text.endswith("… continued in the file")
    records.feed(line("many").encode() + b"again\n" * 1_000_000)
    (found,) = records.finish()
    assert (len(found.text) < 4_100, found.lines) == (True, 1_000_001)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "node-0.0.1.log"

    def write(text):
        with path.open("a") as file:
            file.write(text)

    write.path = str(path)
    return write


def test_a_tail_returns_new_complete_records(log):
    """The last record waits until something follows, or nothing does for a while."""
    tail = Tail(log.path)
    assert tail.read() == ([], 0)
    log(line("one"))
    assert tail.read() == ([], 0)
    assert tail.read() == ([Record(20, "one", 1)], 0)
    assert tail.read() == ([], 0)
    log(line("two") + line("three") + "and")
    assert tail.read() == ([Record(20, "two", 1)], 0)
    log(" more\n")
    assert tail.read() == ([], 0)
    assert tail.finish() == ([Record(20, "three\nand more", 2)], 0)


def test_excess_lines_are_counted(log):
    """Every line is returned or counted, and later records are complete again."""
    tail = Tail(log.path)
    log(line("spam") * 100_000 + "amid a record\n")
    told, skipped = tail.read()
    assert sum(record.lines for record in told) + skipped == 100_001
    assert len(told) < 1_000
    log("still amid it\n" + line("after"))
    assert tail.read() == ([], 1)
    assert tail.finish() == ([Record(20, "after", 1)], 0)


def test_a_tail_continues_after_a_cut(log):
    """No record is repeated or lost."""
    tail = Tail(log.path)
    log(line("old") * 500)
    tail.read()
    tail.read()
    cut = shorten(log.path, 0, most=10_000, head=1_000, tail=2_000)
    tail.note_cut(cut.seen, cut.end)
    assert tail.read() == ([], 0)
    log(line("new"))
    assert tail.finish() == ([Record(20, "new", 1)], 0)


def test_a_tail_follows_a_truncated_log(log):
    """From its new beginning."""
    tail = Tail(log.path)
    log(line("old") * 10)
    tail.read()
    open(log.path, "w").close()
    assert tail.read()[0] == [Record(20, "old", 1)]
    log(line("new"))
    assert tail.finish() == ([Record(20, "new", 1)], 0)


def test_an_allowance_keeps_a_quarter_for_what_is_urgent():
    """Per second and in all; a pause does not save up more than a second's worth."""
    allowance = RateLimiter(per_second=20.0, total=100)
    assert sum(allowance.admits(0.0, is_urgent=False) for _ in range(100)) == 15
    assert sum(allowance.admits(0.0, is_urgent=True) for _ in range(100)) == 5
    assert sum(allowance.admits(60.0, is_urgent=True) for _ in range(100)) == 20
    told = sum(allowance.admits(60.0 + second, is_urgent=False) for second in range(1, 1_000))
    assert told == 100 - 25 - 40
    assert sum(allowance.admits(2_000.0 + second, is_urgent=True) for second in range(1_000)) == 25


def test_a_node_tells_at_most_so_much_and_counts_the_rest(log):
    """Every line is told or counted; less than the level is neither."""
    lines = ScriptLines("node-0", logging.INFO)
    log(line("hello") * 100 + line("quiet", "DEBUG") + line("worse", "ERROR"))
    lines.finish("node-0.0.1", log.path, 0.0)
    said = lines.drain()
    told = [text for _, _, text in said["lines"]]
    assert told == ["hello"] * int(PER_SECOND * 3 / 4) + ["worse"]
    assert (said["node"], said["number"], said["left_out"]) == ("node-0", 1, 100 - len(told) + 1)
    assert lines.drain() is None
    for second in range(1, 2_000):
        log(line("hello"))
        lines.read("node-0.0.1", log.path, float(second))
    assert len(told) + len(lines.drain()["lines"]) <= IN_ALL


def said(node, number, *texts, left_out=0):
    return {"node": node, "number": number, "lines": [[20, f"{node}.0.1", text] for text in texts], "left_out": left_out}


def test_every_message_is_heard_once():
    """A node's last word repeats what may still be on its way, and may overtake it."""
    hearing = ScriptLogCollector()
    for parcel in (said("node-0", 1, "a"), said("node-1", 1, "b"), said("node-0", 1, "a"), said("node-0", 2, "c", left_out=7)):
        hearing.add(parcel)
    hearing.add(said("node-0", 2, "c", left_out=7))
    assert [heard.text for heard in hearing.pop_all()] == ["a", "b", "c"]
    hearing.add(said("node-0", 1, "a"))
    assert hearing.pop_all() == []
    assert hearing.left_out == 7


def test_a_run_tells_a_thousand_messages_at_most():
    """However many nodes there are; the rest is counted, in lines, and a quarter is for warnings."""
    hearing = ScriptLogCollector()
    for node in range(100):
        hearing.add(said(f"node-{node}", 1, *["two\nlines"] * 20))
    told = hearing.pop_all()
    assert told[0] == ScriptLogged(20, "node-0.0.1", "two\nlines")
    assert len(told) == 750
    assert hearing.left_out == 2 * (2_000 - 750)
    hearing.add({**said("node-0", 2), "lines": [[40, "node-0.0.1", "error"]] * 300})
    assert len(hearing.pop_all()) == 250
