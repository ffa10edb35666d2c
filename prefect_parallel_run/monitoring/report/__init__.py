"""report.html: a self-contained page about one run that opens without a network."""

from __future__ import annotations

import time
from pathlib import Path

from prefect_parallel_run._atomic import AtomicFile, wrap_disk_errors
from prefect_parallel_run._threads import CheckCancelled, never_cancelled
from prefect_parallel_run.runs.run_directory import RunDirectory


def write_report(
    directory: RunDirectory, output: Path | None = None, check_cancelled: CheckCancelled = never_cancelled
) -> Path:
    """Write the report of a run atomically and return its path.

    Args:
        directory: The run directory; the run may still be active.
        output: File to write; by default ``report.html`` in the run directory.
        check_cancelled: Called repeatedly; raises to stop.

    Raises:
        OutputError: The run has no ledger, or the report cannot be written.
        sqlite3.Error: The ledger cannot be read, or *check_cancelled* raised while it was.
    """
    from prefect_parallel_run.monitoring.report.data import collect  # noqa: PLC0415  numpy delays a resume
    from prefect_parallel_run.monitoring.report.page import page  # noqa: PLC0415  numpy delays a resume

    target = directory.report if output is None else output
    text = page(collect(directory, check_cancelled), time.time())
    with wrap_disk_errors(target), AtomicFile(target) as file:
        file.write(text.encode())
    return target
