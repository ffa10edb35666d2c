"""Nothing is left behind, however often."""

import threading

import psutil

from .conftest import ours, wait_until


def test_many_runs_leave_nothing_behind(workshop, monkeypatch):
    """No process, no thread, no descriptor, no scratch folder."""
    (workshop.folder / "one").mkdir()
    (workshop.folder / "one" / "file").write_text("x")
    scratch = workshop.folder / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))  # of the workers, where children get their scratch folders
    me = psutil.Process()
    step = workshop.step("echo.py", inputs=workshop.folder / "one", allow_reuse=False, process_count_per_node=1)
    for number in range(25):
        result = step()
        assert result.items_succeeded == 1
        if number == 4:  # what is made once, on first use, is there by now
            before = (me.num_fds(), threading.active_count(), len(me.children(recursive=True)))
    wait_until(lambda: not ours())  # this and what follows may end, or be closed, a moment after the run
    wait_until(lambda: len(me.children(recursive=True)) <= before[2])
    wait_until(lambda: threading.active_count() <= before[1] + 2)
    wait_until(lambda: me.num_fds() <= before[0] + 10)
    wait_until(lambda: not list(scratch.iterdir()))
