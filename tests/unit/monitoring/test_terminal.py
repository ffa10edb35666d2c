"""The status line of a terminal: its content, and that other output does not garble it."""

import logging
import os
import re
import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console

from prefect_parallel_run.models import Breach, Tally
from prefect_parallel_run.monitoring.listeners import listeners_of
from prefect_parallel_run.monitoring.progress import ProgressSnapshot
from prefect_parallel_run.monitoring.terminal import (
    RunView,
    StatusLine,
    active_views,
    can_redraw,
    console_of,
    percent_bar,
    progress_line,
    use_view,
    waiting_line,
)
from prefect_parallel_run.node.settings import NodeFacts
from prefect_parallel_run.runs.events import (
    AttemptFailed,
    ExecutionEnded,
    NodeJoined,
    Progressed,
    RunContinued,
    RunPaused,
    RunStarted,
    SchedulingPaused,
    SchedulingResumed,
    emit_to,
)

from ...terminal import Terminal

HALF = Tally(planned=1000, succeeded=415, failed=5, waiting=2, items=10_000, succeeded_items=4150, failed_items=50)


def snapshot(tally=HALF, done=400, elapsed=40.0, **fields):
    return ProgressSnapshot(tally=tally, done=done, elapsed=elapsed, active_seconds=elapsed, slots=2, **fields)


def test_line_shows_counts_rate_failures_and_time_to_go():
    """As text, so that it can be read without colours."""
    line = progress_line("score", snapshot(), 160)
    assert line.plain == (
        f"score  {'━' * 16}{'─' * 24}   42 %  420 of 1,000 mini-batches  4,150 items  10.0/s  5 failed (50 items)"
        "  2 awaiting retry  40 s  58 s to go"
    ), line
    console = Console(file=StringIO(), force_terminal=True, color_system="standard", width=160)
    console.print(line, end="")
    coloured = console.file.getvalue()
    assert re.sub(r"\x1b\[\d+m", "", coloured) == line.plain
    assert "\x1b[31m5 failed (50 items)\x1b[0m" in coloured
    assert progress_line("score", snapshot(), 160, ascii_only=True).plain.isascii()


@pytest.mark.parametrize("width", range(20, 200, 9))
def test_line_fits_and_keeps_what_matters_most(width):
    """Counts outrank rates, rates outrank names."""
    line = progress_line("a step with a long name", snapshot(), width).plain
    assert len(line) <= width
    assert "42 %" in line or width < 30
    if width >= 60:
        assert "420 of 1,000 mini-batches" in line
        assert "5 failed" in line


def test_line_without_known_total_or_rate_has_no_time_to_go():
    """While the input is still listed, and while scheduling is on hold."""
    listed = Tally(planned=70, succeeded=7, items=700, succeeded_items=70, is_growing=True)
    growing = progress_line("s", snapshot(listed, done=7, elapsed=1.0), 200).plain
    assert growing == "s  7 of 70 mini-batches so far  70 items  7.0/s  1.0 s"
    near = snapshot(held=Breach("error_threshold", 4, 20))
    held = progress_line("s", near, 200).plain
    assert "on hold  error_threshold 4 is near" in held
    assert "to go" not in held
    assert "on hold" in progress_line("s", near, 80).plain
    assert waiting_line("s", "starting Prefect", 3.0, 12).plain == "s  starting "


def test_bar_is_full_only_at_100_percent():
    """However narrow it is."""
    assert percent_bar(99.9, 10).plain == "━" * 9 + "─"
    assert percent_bar(100, 10).plain == "━" * 10
    assert percent_bar(0, 10).plain == "─" * 10


def test_view_shows_the_events_of_a_run():
    """Other events do not change it; only runs of its own context update it."""
    now = [0.0]
    assert active_views() == []
    view = RunView("s", lambda: now[0])
    view.doing("starting Prefect")
    now[0] = 2.0
    assert view.line(80).plain == "s  starting Prefect  2.0 s"
    with use_view(view):
        assert listeners_of("s", logging.getLogger("test"), in_prefect=False)[0] is view
        emit = emit_to(active_views())
    emit(RunStarted("directory", Tally(planned=10), "dashboard"))
    emit(NodeJoined(NodeFacts(node="node-0", host="h", pid=1, cores=2, slots=5)))
    now[0] = 4.0
    emit(Progressed(Tally(planned=10, succeeded=5)))
    assert " 50 %  5 of 10 mini-batches" in view.line(80).plain
    assert "waiting for 5 mini-batches" in view.line(120).plain
    emit(SchedulingPaused(Breach("error_threshold", 1, 2)))
    assert "on hold" in view.line(120).plain
    emit(RunPaused())
    assert "paused" in view.line(120).plain
    emit(RunContinued())
    emit(SchedulingResumed())
    before = view.line(120).plain
    emit(AttemptFailed("receipt", "failed"))
    assert view.line(120).plain == before
    emit(ExecutionEnded(Tally(planned=10)))
    assert view.directory == "directory"
    assert view.line(80).plain == "s  finishing  0.0 s"
    assert active_views() == []


def test_every_listener_receives_every_event_in_order():
    """Whoever comes first acts first: the tracker before those that read it."""
    received = []

    class Recorder:
        def __init__(self, name):
            self.name = name

        def handle(self, event):
            received.append((self.name, event))

    emit = emit_to([Recorder("a"), Recorder("b")])
    emit(RunPaused())
    emit(RunContinued())
    assert received == [("a", RunPaused()), ("b", RunPaused()), ("a", RunContinued()), ("b", RunContinued())]


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    yield terminal
    terminal.close()


class Line:
    """A line that says how wide it may be."""

    def __rich_console__(self, console, options):
        yield f"line of {options.max_width - 1}"


def test_other_output_appears_above_the_status_line(terminal):
    """Of this process, in pieces and whole lines; of child processes; and of a kept stream afterwards."""
    with StatusLine(terminal.stream, Line()):
        kept = sys.stderr
        assert kept.isatty()
        print("one", file=sys.stderr)
        kept.write("tw")
        terminal.wait_for(lambda lines: lines == ["one", "tw"])  # the status line is not drawn into an unfinished line
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


def test_the_status_line_follows_the_width_of_the_terminal(terminal):
    """It would otherwise wrap, and leave a row behind at every drawing."""
    with StatusLine(terminal.stream, Line()) as status_line:
        terminal.wait_for(lambda lines: lines == ["line of 79"])
        terminal.resize(40, 24)
        terminal.wait_for(lambda lines: lines == ["line of 39"])
    terminal.wait_for(lambda lines: lines == [])
    status_line._terminal.close()


def test_a_line_that_overwrites_itself_shows_its_latest_text(terminal):
    """As other libraries draw their progress."""
    with StatusLine(terminal.stream, Line()) as status_line:
        for percent in (10, 20):
            sys.stderr.write(f"\r{percent} %")
        terminal.wait_for(lambda lines: lines == ["20 %"])
        sys.stderr.write("\r30 %\n")
        terminal.wait_for(lambda lines: lines == ["30 %", "line of 79"])
        sys.stderr.write("unfinished")
    terminal.wait_for(lambda lines: lines == ["30 %", "unfinished"])
    status_line._terminal.close()


def test_files_and_dumb_terminals_get_no_status_line(terminal, tmp_path, monkeypatch):
    """Neither can erase a line."""
    monkeypatch.setenv("TERM", "xterm")
    assert can_redraw(terminal.stream)
    assert console_of(terminal.stream).color_system == "standard"
    with (tmp_path / "file").open("w") as file:
        assert not can_redraw(file)
    monkeypatch.setenv("TERM", "dumb")
    assert not can_redraw(terminal.stream)
    monkeypatch.setenv("NO_COLOR", "1")
    assert console_of(terminal.stream).color_system is None
