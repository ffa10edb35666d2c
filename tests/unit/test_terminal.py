"""What a person sees at a terminal: the line itself, and that nothing garbles it."""

import os
import re
import subprocess
import sys

import pytest

from prefect_parallel_run.models import Breach, Tally
from prefect_parallel_run.monitoring.bar import Style, percent_bar, progress_line, waiting_line
from prefect_parallel_run.monitoring.progress import ProgressSnapshot
from prefect_parallel_run.monitoring.status_line import StatusLine, can_redraw, style_of
from prefect_parallel_run.monitoring.terminal import RunView, _Seen, use_view, with_view
from prefect_parallel_run.monitoring.watch import LogWatch
from prefect_parallel_run.node.settings import NodeFacts

from ..terminal import Terminal

PLAIN = Style(colours=False, unicode=True)
HALF = Tally(planned=1000, succeeded=415, failed=5, waiting=2, items=10_000, succeeded_items=4150, failed_items=50)


def going(tally=HALF, done=400, elapsed=40.0, **facts):
    return ProgressSnapshot(tally=tally, done=done, elapsed=elapsed, at_work=elapsed, slots=2, **facts)


def test_the_line_tells_counts_rate_failures_and_time_to_go():
    """In words, so that it can be read without colour."""
    line = progress_line("score", going(), 160, PLAIN)
    assert line == (
        f"score  {'━' * 15}{'─' * 23}   42 %  420 of 1,000 mini-batches  4,150 items  10.0/s  5 failed (50 items)"
        "  2 to be tried again  40 s  58 s to go"
    ), line
    coloured = progress_line("score", going(), 160, Style())
    assert re.sub(r"\x1b\[\d+m", "", coloured) == line
    assert "\x1b[31m5 failed (50 items)\x1b[0m" in coloured
    assert progress_line("score", going(), 160, Style(colours=False, unicode=False)).isascii()


@pytest.mark.parametrize("width", range(20, 200, 9))
def test_the_line_fits_and_keeps_what_matters_most(width):
    """Counts before rates before names."""
    line = progress_line("a step with a long name", going(), width, PLAIN)
    assert len(line) <= width
    assert "42 %" in line or width < 30
    if width >= 60:
        assert "420 of 1,000 mini-batches" in line
        assert "5 failed" in line


def test_the_line_while_the_input_is_still_listed_and_while_it_is_held():
    """No share and no time to go, which nobody knows yet."""
    listed = Tally(planned=70, succeeded=7, items=700, succeeded_items=70, is_growing=True)
    growing = progress_line("s", going(listed, done=7, elapsed=1.0), 200, PLAIN)
    assert growing == "s  7 of 70 mini-batches so far  70 items  7.0/s  1.0 s"
    near = going(held=Breach("error_threshold", 4, 20))
    held = progress_line("s", near, 200, PLAIN)
    assert "held back  error_threshold 4 is near" in held
    assert "to go" not in held
    assert "held back" in progress_line("s", near, 80, PLAIN)
    assert waiting_line("s", "starting Prefect", 3.0, 12, PLAIN) == "s  starting "


def test_a_bar_is_full_only_at_the_end():
    """However narrow."""
    assert percent_bar(99.9, 10, PLAIN) == "━" * 9 + "─"
    assert percent_bar(100, 10, PLAIN) == "━" * 10
    assert percent_bar(0, 10, PLAIN) == "─" * 10


class Recorder:
    """A watch that notes what it is told; one with more to be told than there was when the view was written."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        return lambda *arguments: self.told.append((name, *arguments))


def test_a_view_sees_what_the_step_is_told_and_the_step_too():
    """Also what a later version tells; without a view the watch is what it was."""
    watch, now = Recorder(), [0.0]
    assert with_view(watch) is watch
    view = RunView("s", PLAIN, lambda: now[0])
    view.doing("starting Prefect")
    now[0] = 2.0
    assert view.line(80) == "s  starting Prefect  2.0 s"
    with use_view(view):
        seen = with_view(watch)
        seen.began("directory", Tally(planned=10), "dashboard")
        seen.node_joined(NodeFacts(node="node-0", host="h", pid=1, cores=2, slots=5))
        now[0] = 4.0
        seen.progressed(Tally(planned=10, succeeded=5))
        assert " 50 %  5 of 10 mini-batches" in view.line(80)
        assert "waiting for 5 mini-batches" in view.line(120)
        seen.held(Breach("error_threshold", 1, 2))
        assert "held back" in view.line(120)
        seen.paused(True)
        assert "paused" in view.line(120)
        seen.paused(False)
        seen.held(None)
        seen.tried("receipt", "failed")
        seen.something_new(1, 2)
        seen.ended("ledger")
    assert view.directory == "directory"
    assert view.line(80) == "s  finishing  0.0 s"
    assert [told[0] for told in watch.told] == [
        "began",
        "node_joined",
        "progressed",
        "held",
        "paused",
        "paused",
        "held",
        "tried",
        "something_new",
        "ended",
    ]
    assert with_view(watch) is watch
    assert {name for name in vars(_Seen) if name[0] != "_"} <= set(dir(LogWatch)), "the names that a view listens to"


@pytest.fixture
def terminal():
    made = Terminal()
    yield made
    made.close()


def test_what_others_write_goes_above_the_line(terminal):
    """This process, in pieces and in whole lines; processes that it starts; and whoever kept the stream, afterwards."""
    with StatusLine(terminal.stream, lambda columns: f"line of {columns}"):
        kept = sys.stderr
        assert kept.isatty()
        print("one", file=sys.stderr)
        kept.write("tw")
        terminal.wait_for(lambda lines: lines == ["one", "tw"])  # no line is drawn into another
        kept.write("o\n")
        command = [sys.executable, "-c", "import os; os.write(2, b'three, from a process\\n')"]
        subprocess.run(command, check=True, timeout=60, stderr=terminal.stream.fileno())
        expected = ["one", "two", "three, from a process"]
        terminal.wait_for(lambda lines: lines == [*expected, "line of 79"])
    assert terminal.wait_for(lambda lines: lines == expected)
    assert sys.stderr is not kept
    print("four, afterwards", file=kept)
    os.write(terminal.stream.fileno(), b"five, straight\n")
    terminal.wait_for(lambda lines: lines == [*expected, "four, afterwards", "five, straight"])
    kept._stream.close()


def test_where_a_line_cannot_be_redrawn(terminal, tmp_path, monkeypatch):
    """A file, or a terminal that says so."""
    monkeypatch.setenv("TERM", "xterm")
    assert can_redraw(terminal.stream)
    with (tmp_path / "file").open("w") as file:
        assert not can_redraw(file)
    monkeypatch.setenv("TERM", "dumb")
    assert not can_redraw(terminal.stream)
    monkeypatch.setenv("NO_COLOR", "1")
    assert style_of(terminal.stream) == Style(colours=False, unicode=True)
