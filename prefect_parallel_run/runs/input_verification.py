"""Verifies in the background that a resumed run's inputs are unchanged."""

from __future__ import annotations

from prefect_parallel_run._threads import Background, CheckCancelled, never_cancelled
from prefect_parallel_run.errors import InputChangedError
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.planning.planner import inputs_sha256
from prefect_parallel_run.runs.diff import input_differences, some
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.runs.spec import StepSpec


class InputCheck:
    """Lists the inputs of *spec* and compares them with the existing plan in *directory*."""

    def __init__(self, directory: RunDirectory, spec: StepSpec) -> None:
        self._directory, self._datasets = directory, spec.datasets
        self._is_verified = False
        self._listing = Background("listing", lambda check_cancelled: inputs_sha256(spec.datasets, check_cancelled)).start()

    def raise_if_failed(self) -> None:
        """Raise InputChangedError, which names every difference, if the listing has ended and differs from the plan."""
        if not self._is_verified and self._listing.is_over():
            self.wait()

    def wait(self, check_cancelled: CheckCancelled = never_cancelled) -> None:
        """Return when all inputs are verified; raises InputChangedError."""
        plan = Plan.open(self._directory.plan)
        if self._listing.wait(check_cancelled) != plan.summary.inputs_sha256:
            changes = some(input_differences(plan.mini_batches(), self._datasets))
            raise InputChangedError(str(self._directory.path), changes or ("the order of its input files has changed",))
        self._is_verified = True

    def stop(self) -> None:
        """Cancel the verification."""
        self._listing.stop()
