"""report.html in a real browser, for a run with failures, a timeout and a retry, and for 100,000 mini-batches."""

import json
import threading
import time
from pathlib import Path

import pytest

from prefect_parallel_run import LimitExceededError
from prefect_parallel_run.compute.local import LocalTarget
from prefect_parallel_run.datasets.files import FileDataset
from prefect_parallel_run.execution import runner
from prefect_parallel_run.monitoring.report import write_report
from prefect_parallel_run.output.reduction import reduce
from prefect_parallel_run.planning.inputs import normalize_inputs
from prefect_parallel_run.runs.events import RunStarted, Warned
from prefect_parallel_run.runs.spec import StepSpec

from ..made_runs import make_run

pytestmark = pytest.mark.usefixtures("shared_cluster")

VIEWS = [("light", 1200), ("dark", 1200), ("light", 360), ("dark", 360)]
OPENED = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def open_page(browser, path, read, scheme="light", width=1200):
    """Call *read* with the page, opened offline; the page must log no message and send no request."""

    def visit(page):
        messages, requests = [], []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("dialog", lambda dialog: messages.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri(), wait_until="load")
        page.evaluate(OPENED)
        result = read(page)
        assert messages == []
        assert requests == [path.as_uri()]
        return result

    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "offline": True}
    return browser.look(visit, **options)


def fits(page):
    """Return whether the page is not wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def ground(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def tip(page):
    return page.locator("#tip").text_content()


def check_views(browser, path):
    """Check that the page fits and follows the colour scheme."""
    grounds = {view: open_page(browser, path, lambda page: (fits(page), ground(page)), *view) for view in VIEWS}
    assert all(fitting for fitting, _ in grounds.values())
    assert grounds["light", 360] == grounds["light", 1200] != grounds["dark", 1200] == grounds["dark", 360]


def read_by_keys(page):
    """Move through the lanes and a chart with the keyboard, and return the texts of the tooltip."""
    page.locator("#lanes").focus()
    texts = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "End"):
        page.keyboard.press(key)
        texts.append(tip(page))
    page.locator("[data-chart=throughput]").focus()
    page.keyboard.press("End")
    texts.append(tip(page))
    page.keyboard.press("Escape")
    assert not page.locator("#tip.shown").count()
    return texts


def test_report_shows_failures_a_timeout_and_a_retry(workshop, browser):
    """As text, on the timeline, with the mouse and with the keyboard."""
    result = workshop.step("mixed.py", mini_batch_size=1, run_invocation_timeout=5, run_max_try=2)()
    assert (result.mini_batches_total, result.mini_batches_failed) == (100, 1)
    path = Path(result.run_directory, "report.html")

    def read(page):
        words = page.locator("main").inner_text()
        assert "Succeeded" in words
        assert "</script><img src=x onerror=alert(1)>" in words
        assert "f005.txt" in page.locator("#failures").inner_text()  # the failing file
        lanes = json.loads(page.locator("#figures").text_content())["lanes"]
        tries = [segment for lane in lanes["lanes"] for segment in lane["tries"]]
        again = [(number, 2) for number in (3, 5, 7)]
        assert sorted((segment[2], segment[3]) for segment in tries) == sorted([(number, 1) for number in range(100)] + again)
        assert page.locator(".lane rect.bad").count() == 4
        assert page.locator(".lane rect.again").count() == 3
        assert page.locator(".lane text.letter").all_text_contents() == ["T"]
        page.locator(".lane rect.bad").last.hover()
        return tip(page), read_by_keys(page)

    text, by_keys = open_page(browser, path, read)
    assert "attempt" in text
    assert "duration" in text
    assert all("mini-batch" in words for words in by_keys[:5])
    assert by_keys[0] != by_keys[1]
    assert "succeeded:" in by_keys[5]
    check_views(browser, path)


def test_report_of_100000_mini_batches_is_small_and_usable(tmp_path, browser):
    """Under 5 MB, with the same functions as a small one. The README says how fast it opens."""
    made = make_run(tmp_path / "run", 100_000, nodes=8, slots=8, fail=0.01)
    path = write_report(made.directory)
    assert path.stat().st_size < 5_000_000

    def read(page):
        figures = json.loads(page.locator("#figures").text_content())
        lanes = figures["lanes"]["lanes"]
        assert len(lanes) == page.locator(".lane").count() == 64
        assert sum(sum(lane["good"]) + sum(lane["bad"]) for lane in lanes) == made.tries
        assert set(figures["charts"]) == {"throughput", "memory", "processes", "cpu", "eta"}
        return read_by_keys(page)

    texts = open_page(browser, path, read)
    assert all("attempts succeeded" in text for text in texts[:5])
    check_views(browser, path)


def test_report_of_a_thousand_nodes_combines_lanes(tmp_path, browser):
    """The page says which nodes it shows."""
    made = make_run(tmp_path / "run", 20_000, nodes=1_000, slots=2, fail=0.001, seconds=30, logs=False)
    path = write_report(made.directory)
    assert path.stat().st_size < 5_000_000
    words = open_page(browser, path, lambda page: page.locator("#timeline").inner_text(), width=360)
    assert "2,000 slots on 1,000 nodes, too many for one lane each" in words


def test_report_of_an_exceeded_limit_starts_with_the_reason(workshop, browser, monkeypatch):
    """The limit and its values are above the failures."""
    monkeypatch.setattr(runner, "_REPORT_IF_FAILED", 600.0)  # however busy this machine is
    with pytest.raises(LimitExceededError):
        workshop.step("mixed.py", mini_batch_size=10, run_max_try=1, error_threshold=0)()
    (path,) = workshop.output.glob("_parallel_run/*/report.html")
    words = open_page(browser, path, lambda page: page.locator("main").inner_text())
    assert "Failed" in words
    assert "✕ exceeded" in words
    assert "error_threshold" in words.split("Failures")[0]


class RunListener:
    """Records the warnings of a run."""

    def __init__(self, began=lambda _: None):
        self.warnings, self._on_begin = [], began

    def handle(self, event):
        match event:
            case RunStarted(directory):
                self._on_begin(directory)
            case Warned(text):
                self.warnings.append(text)


def drive(workshop, watch, check_cancelled=lambda: None):
    """Run a small step without Prefect."""
    spec = StepSpec(
        name="driven",
        config=workshop.config("echo.py", mini_batch_size=5),
        datasets=normalize_inputs([FileDataset.from_files(str(workshop.files))]),
        output=str(workshop.output),
        interpreter=None,
        home=workshop.folder,
    )
    return runner.run_step(
        spec, LocalTarget(), runner.Callbacks(reduce=reduce, emit=watch.handle, check_cancelled=check_cancelled)
    )


def cancelled_soon(watch):
    """Return a check_cancelled that cancels the run after its start."""
    begun = []
    watch._on_begin = begun.append

    def check_cancelled():
        if begun:
            raise KeyboardInterrupt

    return check_cancelled


def cancel(workshop, watch):
    """Cancel a run after its start, and return its directory."""
    with pytest.raises(KeyboardInterrupt):
        drive(workshop, watch, cancelled_soon(watch))
    (directory,) = workshop.output.glob("_parallel_run/driven-*")
    return directory


def test_cancelled_run_has_a_report(workshop, monkeypatch):
    """If it can be written quickly."""
    monkeypatch.setattr(runner, "_REPORT_IF_CANCELLED", 600.0)  # however busy this machine is
    directory = cancel(workshop, RunListener())
    assert "Cancelled" in (directory / "report.html").read_text()


def test_cancelled_run_does_not_wait_for_a_slow_report(workshop, monkeypatch):
    """The command line can write it later."""
    stopped = threading.Event()

    def endless(_, check_cancelled):
        try:
            while True:
                check_cancelled()
                time.sleep(0.01)
        finally:
            stopped.set()

    monkeypatch.setattr(runner, "_REPORT_IF_CANCELLED", 0.2)
    monkeypatch.setattr(runner, "write_report", endless)
    watch = RunListener()
    directory = cancel(workshop, watch)
    assert stopped.wait(300)
    assert not (directory / "report.html").exists()
    assert any(f"prefect-parallel-run report {directory}" in text for text in watch.warnings)


def test_a_report_that_cannot_be_written_is_a_warning(workshop):
    """The run itself succeeds."""
    watch = RunListener(began=lambda directory: directory.report.mkdir())
    result = drive(workshop, watch)
    assert result.mini_batches_succeeded == 20
    assert any("the report could not be written: OutputError" in text for text in watch.warnings)
