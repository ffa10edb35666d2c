"""Are the inputs of a run that is gone on with still those it was planned for? Found out in the background."""

from __future__ import annotations

from collections.abc import Callable

from prefect_parallel_run._threads import Background
from prefect_parallel_run.errors import InputChangedError
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.planning.writing import inputs_sha256
from prefect_parallel_run.runs.diff import input_differences, some
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.runs.spec import StepSpec


class InputCheck:
    """Lists the inputs of *spec* and compares them with the plan in *directory*, which is not made again."""

    def __init__(self, directory: RunDirectory, spec: StepSpec) -> None:
        self._directory, self._datasets = directory, spec.datasets
        self._is_same = False  # as far as is known
        self._found = Background("listing", lambda check_cancelled: inputs_sha256(spec.datasets, check_cancelled)).start()

    def raise_if_failed(self) -> None:
        """Raise InputChangedError, which names every difference, once there is known to be one."""
        if not self._is_same and self._found.is_over():
            self.wait(lambda: None)

    def wait(self, check_cancelled: Callable[[], None]) -> None:
        """Return when all is known to be unchanged; raises InputChangedError."""
        plan = Plan.open(self._directory.plan)
        if self._found.wait(check_cancelled) != plan.summary.inputs_sha256:
            changes = some(input_differences(plan.mini_batches(), self._datasets))
            raise InputChangedError(str(self._directory.path), changes or ("its input files come in another order",))
        self._is_same = True

    def stop(self) -> None:
        """Give up."""
        self._found.stop()
