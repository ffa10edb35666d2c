"""The status of a run from its ledger alone, and as lines that fit a terminal."""

import pytest

from prefect_parallel_run.models import Receipt
from prefect_parallel_run.monitoring.status import as_plain, read_status, status_lines, status_summary
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory, write_json

NOW = 1_700_000_000.0
ERROR = (
    "cannot identify image file '/data/photos/a rather long folder/of many/img_000123.jpg', nor what else it may be: give up"
)


@pytest.fixture
def run(tmp_path):
    """A run of 150 mini-batches that this process executes: 40 are finished, by two processes."""
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
        ledger.record(status="running", drives="1")
    with directory.lock():
        yield directory


def fail(run, state, number=40):
    with Ledger(run.ledger) as ledger:
        error = {"error_type": "PIL.UnidentifiedImageError", "error": ERROR, "fingerprint": "f", "node": "node-0"}
        ledger.commit([(Receipt.of_failure(number, 1, "raised", items=20, started=NOW - 1, seconds=1.0, **error), state)])


def test_time_to_go_is_beside_the_bar(run):
    """In 80 columns a long line wraps into a second row."""
    write_json(run.description, {"config": {"error_threshold": 100}})
    fail(run, "failed")
    lines = status_lines(read_status(run, NOW), NOW, 79)
    assert all(len(line) <= 79 for line in lines)
    assert lines[0].startswith("facts-78d693fc5b28-20261125T224333-80d950: running (process ")
    (bar,) = (line for line in lines if "━" in line)
    assert bar.endswith("─ 27 %  54 s to go")
    assert sum("to go" in line for line in lines) == 1
    wrapped = [row.strip() for row in lines if row.startswith("    ")]
    assert any(row.endswith("…") for row in wrapped), "the cause has at most two rows"
    joined = " ".join(row.strip() for row in lines)
    assert "latest result" in joined
    assert "2.0 mini-batches/s recently" in joined
    assert "1 failed attempt of 1 mini-batch: PIL.UnidentifiedImageError: cannot identify image file '/data" in joined
    assert "54 s to go" in " ".join(status_lines(read_status(run, NOW), NOW))


def test_status_names_the_limit_that_holds_the_run(run):
    """The executing process uses the same counts, pending attempts included; there is no time to go then."""
    assert "on hold" not in status_summary(read_status(run, NOW))
    fail(run, "waiting")
    status = read_status(run, NOW)
    for text in (status_summary(status), *(line for line in status_lines(status, NOW, 79) if "━" in line)):
        assert text.endswith("on hold: error_threshold 4 is near")
    plain = as_plain(status)
    assert plain["held"] == {"limit": "error_threshold", "allowed": 4, "actual": 20}
    assert plain["remaining_seconds"] is None
    with Ledger(run.ledger) as ledger:
        ledger.record(adjustments='{"error_threshold": {"now": 20, "instead_of": [4]}}')
    assert as_plain(read_status(run, NOW))["held"] is None
    with Ledger(run.ledger) as ledger:
        ledger.record(paused="1")
    assert as_plain(read_status(run, NOW))["remaining_seconds"] is None
    assert "paused" in status_summary(read_status(run, NOW))


def test_status_near_the_end_says_what_it_waits_for(run):
    """The rate of finished mini-batches does not predict the last ones."""
    with Ledger(run.ledger) as ledger:
        good = Receipt(0, 1, "succeeded", 20, 20, 0, 20, "p", 0, 0, 20, 1, NOW - 1, 0.5, "node-0", 1)
        ledger.commit((good._replace(mini_batch=number), "succeeded") for number in range(40, 149))
    status = read_status(run, NOW)
    expected = "149 of 150 mini-batches (99 %), 7.5 mini-batches/s recently, waiting for 1 mini-batch"
    assert status_summary(status).endswith(expected)
    assert (as_plain(status)["waits_for"], as_plain(status)["remaining_seconds"]) == (1, None)


@pytest.mark.parametrize(
    ("threshold", "options"),
    [(4, ["--error-threshold N", "--isolate-failed-items", "--retry-failed"]), (20, [""])],
    ids=["exceeded", "kept"],
)
def test_status_suggests_commands_for_an_exceeded_limit(tmp_path, run, threshold, options):
    """Resuming unchanged would fail again: the hints are those beside the error."""
    fail(run, "failed")
    write_json(run.description, {"config": {"error_threshold": threshold}})
    with Ledger(run.ledger) as ledger:
        ledger.record(status="failed", reason="error_threshold exceeded: 20 failed items, 4 allowed")
    lines = [line.strip() for line in status_lines(read_status(run, NOW), NOW)]
    program = "next: prefect-parallel-run"
    expected = [f"{program} failed {run.path}", *(f"{program} resume {run.path} {option}".strip() for option in options)]
    assert [line for line in lines if line.startswith("next")] == expected
