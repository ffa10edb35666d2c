"""How a run stands, from its ledger alone, and in lines that fit a terminal."""

import pytest

from prefect_parallel_run.models import Receipt
from prefect_parallel_run.monitoring.bar import Style
from prefect_parallel_run.monitoring.status import as_plain, look
from prefect_parallel_run.monitoring.status_text import standing_line, standing_lines
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory, write_json

NOW = 1_700_000_000.0
WORDS = (
    "cannot identify image file '/data/photos/a rather long folder/of many/img_000123.jpg', nor what else it may be: give up"
)
BAR = Style(colours=False, unicode=True)


@pytest.fixture
def run(tmp_path):
    """A run of 150 mini-batches that this process drives: 40 are done, by two processes."""
    directory = RunDirectory(tmp_path / "facts-78d693fc5b28-20261125T224333-80d950")
    directory.make()
    directory.plan.touch()
    write_json(directory.description, {"config": {"error_threshold": 4, "allowed_failed_count": None}})
    with Ledger.create(directory.ledger, [20] * 150) as ledger:
        good = Receipt(0, 1, "succeeded", 20, 20, 0, 20, "p", 0, 0, 20, 1, NOW - 10, 0.5, "node-0", 1)
        ledger.commit(
            (good._replace(mini_batch=number, started=NOW - 20 + number / 2, pid=number % 2), "succeeded")
            for number in range(40)
        )
        ledger.note(status="running", drives="1")
    with directory.lock():
        yield directory


def fail(run, state, number=40):
    with Ledger(run.ledger) as ledger:
        error = {"error_type": "PIL.UnidentifiedImageError", "error": WORDS, "fingerprint": "f", "node": "node-0"}
        ledger.commit([(Receipt.of_failure(number, 1, "raised", items=20, started=NOW - 1, seconds=1.0, **error), state)])


def test_the_time_to_go_stands_beside_the_bar(run):
    """In 80 columns nothing is cut off: what is too long goes on in a second row."""
    write_json(run.description, {"config": {"error_threshold": 100}})
    fail(run, "failed")
    lines = standing_lines(look(run, NOW), NOW, 79, BAR)
    assert all(len(line) <= 79 for line in lines)
    assert lines[0].startswith("facts-78d693fc5b28-20261125T224333-80d950: running (process ")
    (bar,) = (line for line in lines if "━" in line)
    assert bar.endswith("─ 27 %  54 s to go")
    assert sum("to go" in line for line in lines) == 1
    told = [row.strip() for row in lines if row.startswith("    ")]
    assert any(row.endswith("…") for row in told), "the cause has two rows at most"
    joined = " ".join(row.strip() for row in lines)
    assert "newest result" in joined
    assert "2.0 mini-batches/s of late" in joined
    assert "1 failed attempt of 1 mini-batch: PIL.UnidentifiedImageError: cannot identify image file '/data" in joined
    assert "54 s to go" in " ".join(standing_lines(look(run, NOW), NOW))


def test_what_holds_a_run_back_is_told(run):
    """Its own process judges by the same counts: also those of pending tries. No time to go is true then."""
    assert "held back" not in standing_line(look(run, NOW))
    fail(run, "waiting")
    standing = look(run, NOW)
    for words in (standing_line(standing), *(line for line in standing_lines(standing, NOW, 79, BAR) if "━" in line)):
        assert words.endswith("held back: error_threshold 4 is near")
    told = as_plain(standing)
    assert told["held"] == {"limit": "error_threshold", "allowed": 4, "actual": 20}
    assert told["remaining_seconds"] is None
    with Ledger(run.ledger) as ledger:
        ledger.note(adjustments='{"error_threshold": {"now": 20, "instead_of": [4]}}')
    assert as_plain(look(run, NOW))["held"] is None
    with Ledger(run.ledger) as ledger:
        ledger.note(paused="1")
    assert as_plain(look(run, NOW))["remaining_seconds"] is None
    assert "paused" in standing_line(look(run, NOW))


def test_at_the_end_it_says_what_it_waits_for(run):
    """How fast the others were does not matter then."""
    with Ledger(run.ledger) as ledger:
        good = Receipt(0, 1, "succeeded", 20, 20, 0, 20, "p", 0, 0, 20, 1, NOW - 1, 0.5, "node-0", 1)
        ledger.commit((good._replace(mini_batch=number), "succeeded") for number in range(40, 149))
    standing = look(run, NOW)
    words = "149 of 150 mini-batches (99 %), 7.5 mini-batches/s of late, waiting for 1 mini-batch"
    assert standing_line(standing).endswith(words)
    assert (as_plain(standing)["waits_for"], as_plain(standing)["remaining_seconds"]) == (1, None)


@pytest.mark.parametrize(
    ("threshold", "options"),
    [(4, ["--error-threshold N", "--isolate-failed-items", "--retry-failed"]), (20, [""])],
    ids=["exceeded", "kept"],
)
def test_what_can_be_done_about_a_limit(tmp_path, run, threshold, options):
    """Going on as it is would end the same way: the same hints as beside the error."""
    fail(run, "failed")
    write_json(run.description, {"config": {"error_threshold": threshold}})
    with Ledger(run.ledger) as ledger:
        ledger.note(status="failed", reason="error_threshold exceeded: 20 failed items, 4 allowed")
    lines = [line.strip() for line in standing_lines(look(run, NOW), NOW)]
    program = "next: prefect-parallel-run"
    expected = [f"{program} failed {run.path}", *(f"{program} resume {run.path} {option}".strip() for option in options)]
    assert [line for line in lines if line.startswith("next")] == expected
