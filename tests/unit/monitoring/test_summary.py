"""The summary of a step gives its outcome, counts and locations."""

import pytest

from prefect_parallel_run.errors import LimitExceededError
from prefect_parallel_run.models import Tally
from prefect_parallel_run.monitoring.artifacts import Throughput, report_text, summary_of_failure, summary_of_result
from prefect_parallel_run.result import ParallelRunResult


def result(**fields):
    defaults = {
        "name": "score it",
        "run_id": "r",
        "output": "/out",
        "output_file": "/out/rows.csv",
        "output_format": "csv",
        "run_directory": "/out/_parallel_run/r",
        "receipt": "/out/_parallel_run/r/receipt.json",
        "mini_batches_total": 2000,
        "mini_batches_succeeded": 1999,
        "mini_batches_failed": 1,
        "items_total": 20000,
        "items_succeeded": 19990,
        "items_failed": 10,
        "rows": 19990,
        "seconds": 10.0,
        "limits": {"error_threshold": 10, "allowed_failed_count": None, "allowed_failed_percent": 5.0},
    }
    return ParallelRunResult(**{**defaults, **fields})


def test_summary_of_a_result():
    """Readable figures, only the limits that are set, the rate of this execution."""
    text = summary_of_result(result(), Throughput(9.0, 5.0, 1000, 10_000))
    assert "**Succeeded; 10 items failed, within the limits**" in text
    assert "| mini-batches | 2,000 | 1,999 | 1 | 0 |" in text
    assert "| items | 20,000 | 19,990 | 10 | 0 |" in text
    assert "19,990 rows · 10 s · 200.0 mini-batches/s · 2,000.0 items/s" in text
    assert "| `error_threshold` | 10 | 10 failed items |" in text
    assert "| `allowed_failed_percent` | 5 | 0.05 % failed mini-batches |" in text
    assert "allowed_failed_count" not in text
    assert "Result: `/out/rows.csv`" in text
    assert "Run directory: `/out/_parallel_run/r`" in text


def test_summary_of_a_reused_result():
    """Nothing ran, so there is no rate; the location of the result matters."""
    no_failures = dict.fromkeys(["items_failed", "mini_batches_failed"], 0)
    text = summary_of_result(result(reused=True, seconds=0.0, **no_failures), Throughput(0.0, 0.0, 0, 0))
    assert "**Reused: this is the result of an earlier run; nothing ran**" in text
    assert "/s" not in text
    assert "Result: `/out/rows.csv`" in text


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            LimitExceededError("error_threshold", 1, 10, "/r", "mini-batch 3: ValueError: bad \x1b[2J"),
            "**Failed**\n\n```\nLimitExceededError: error_threshold exceeded",
        ),
        (KeyboardInterrupt(), "**Cancelled; finished mini-batches are kept**"),
    ],
)
def test_summary_of_a_run_without_a_result(error, expected):
    tally = Tally(planned=10, succeeded=3, failed=1, items=100, succeeded_items=30, failed_items=10, rows=30)
    text = summary_of_failure("score", error, tally, "/r", Throughput(3.0, 2.0, 4, 40))
    assert expected in text
    assert "\x1b" not in text
    assert "| items | 100 | 30 | 10 | 60 |" in text
    assert "30 rows · 3.0 s · 2.0 mini-batches/s · 20.0 items/s" in text
    assert "Result" not in text


def test_report_is_linked_only_if_a_browser_follows_it():
    """Otherwise the text gives the path and the command that opens it."""
    text = report_text("/my out/_parallel_run/r/report.html")
    assert "prefect-parallel-run report '/my out/_parallel_run/r' --open" in text
    assert "](" not in text
    assert "[report.html](https://x/r/report.html)" in report_text("https://x/r/report.html")
