"""The warnings that an execution logs in addition to the dispatcher's."""

from prefect_parallel_run import TabularDataset
from prefect_parallel_run.execution.execute import _PlanningWarnings
from prefect_parallel_run.planning.inputs import normalize_inputs
from prefect_parallel_run.runs.run_directory import RunDirectory

from ...plans import write_plan


class Planner:
    """A planner that is complete when the test says so."""

    def __init__(self, summary):
        self.over, self.summary = False, lambda: summary

    def is_over(self):
        return self.over


def test_planning_warnings_are_logged_once_planning_is_complete(tmp_path):
    """Only once; for a run that is planned meanwhile, and for one whose plan already exists."""
    (tmp_path / "t.csv").write_text("a;b\n1;2\n")
    directory = RunDirectory(tmp_path / "run")
    directory.make()
    summary = write_plan(normalize_inputs([TabularDataset.from_delimited_files(tmp_path / "t.csv")]), 10, directory.plan)
    logged, planner = [], Planner(summary)

    def emit(event):
        logged.append(event.text)

    notes = _PlanningWarnings(directory, planner, emit)
    notes.log()
    assert logged == []
    planner.over = True
    notes.log()
    notes.log()
    assert logged == list(summary.notes)
    assert len(logged) == 1
    _PlanningWarnings(directory, None, emit).log()
    assert logged[1:] == list(summary.notes)
