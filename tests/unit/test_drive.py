"""What one driving of a run tells beside its dispatcher."""

from prefect_parallel_run import TabularDataset
from prefect_parallel_run.execution.drive import _Notes
from prefect_parallel_run.planning.writing import normalise_inputs, write_plan
from prefect_parallel_run.runs.run_directory import RunDirectory


class Planner:
    """One that takes its time."""

    def __init__(self, summary):
        self.over, self.summary = False, lambda: summary

    def is_over(self):
        return self.over


def test_what_planning_found_odd_is_told_once_it_is_over(tmp_path):
    """Once; by a run that plans while it goes on, and by one whose plan was there already."""
    (tmp_path / "t.csv").write_text("a;b\n1;2\n")
    directory = RunDirectory(tmp_path / "run")
    directory.make()
    summary = write_plan(normalise_inputs([TabularDataset.from_delimited_files(tmp_path / "t.csv")]), 10, directory.plan)
    told, planner = [], Planner(summary)
    notes = _Notes(directory, planner, told.append)
    notes.tell()
    assert told == []
    planner.over = True
    notes.tell()
    notes.tell()
    assert told == list(summary.notes)
    assert len(told) == 1
    _Notes(directory, None, told.append).tell()
    assert told[1:] == list(summary.notes)
