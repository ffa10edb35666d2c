"""The registry of listeners to the events of a run."""

from __future__ import annotations

from prefect_parallel_run.monitoring.log_files import RunFiles
from prefect_parallel_run.monitoring.logs import Logger, RunLog
from prefect_parallel_run.monitoring.progress import ProgressTracker
from prefect_parallel_run.monitoring.terminal import active_views
from prefect_parallel_run.runs.events import Listener


def listeners_of(step: str, logger: Logger, *, in_prefect: bool) -> list[Listener]:
    """Return the listeners of a run, in the order in which they receive an event: the tracker before those that read it."""
    tracker = ProgressTracker()
    listeners: list[Listener] = [*active_views(), tracker, RunLog(step, logger, tracker), RunFiles(step, logger, tracker)]
    if in_prefect:
        from prefect_parallel_run.monitoring.artifacts import RunArtifacts
        from prefect_parallel_run.monitoring.prefect_events import PrefectEvents

        listeners += [PrefectEvents(step, logger, tracker), RunArtifacts(step, logger, tracker)]
    return listeners
