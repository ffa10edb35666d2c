"""The plan: frozen, complete, read back in any order."""

import pytest

from prefect_parallel_run import FileDataset, TabularDataset
from prefect_parallel_run.errors import InputError, OutputError
from prefect_parallel_run.planning import planner as module
from prefect_parallel_run.planning.inputs import normalize_inputs
from prefect_parallel_run.planning.plan import Plan

from ...plans import write_plan


def test_a_plan_reads_back_what_was_written(files, tmp_path, monkeypatch):
    """It reads across row groups, and in any order."""
    monkeypatch.setattr(module, "_GROUP_ROWS", 7)
    datasets = normalize_inputs([files, FileDataset.from_files(files / "f00*.txt").as_named_input("few")])
    summary = write_plan(datasets, 3, tmp_path / "plan.parquet")
    plan = Plan(tmp_path / "plan.parquet")
    assert plan.summary == summary
    whole = list(plan.mini_batches())
    assert [one.number for one in whole] == list(range(34 + 4))
    assert {one.input_name for one in whole} == {"input_0", "few"}
    assert sum(one.items for one in whole) == summary.items == 110
    for start, stop in [(30, 38), (0, 1), (5, 22), (37, 38), (3, 3)]:
        assert plan.works(start, stop) == [one.work for one in whole[start:stop]]
        assert plan.items(start, stop) == [one.items for one in whole[start:stop]]


def test_the_same_input_gives_the_same_plan(files, tmp_path):
    """A changed file gives another plan."""
    first = write_plan(normalize_inputs([files]), 10, tmp_path / "1").sha256
    assert write_plan(normalize_inputs([files]), 10, tmp_path / "2").sha256 == first
    assert write_plan(normalize_inputs([files]), 9, tmp_path / "3").sha256 != first
    (files / "f050.txt").write_text("changed")
    assert write_plan(normalize_inputs([files]), 10, tmp_path / "4").sha256 != first


def test_no_mini_batch_spans_two_inputs(files, tmp_path):
    """Inputs are divided one after another."""
    datasets = normalize_inputs([files / "f000.txt", files / "f001.txt"])
    assert write_plan(datasets, 10, tmp_path / "plan").mini_batches == 2


@pytest.mark.parametrize("allow", [False, True])
def test_an_empty_input_is_an_error_unless_allowed(tmp_path, allow):
    """The error names the path; no file remains."""
    (tmp_path / "empty").mkdir()
    dataset = FileDataset.from_files(tmp_path / "empty", allow_empty=allow)
    if allow:
        assert write_plan(normalize_inputs([dataset]), 10, tmp_path / "plan").mini_batches == 0
    else:
        with pytest.raises(InputError, match=r"empty: has no items; .*allow_empty=True, or --allow-empty on the command line"):
            write_plan(normalize_inputs([dataset]), 10, tmp_path / "plan")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_mixed_kinds_are_rejected(files):
    """The error names the kind of each input."""
    with pytest.raises(InputError, match="input_0: file, input_1: tabular"):
        normalize_inputs([files, TabularDataset.from_parquet_files("x.parquet")])


def test_names_must_be_unique(files):
    """A script could not distinguish two inputs with one name."""
    dataset = FileDataset.from_files(files).as_named_input("twice")
    with pytest.raises(InputError, match="twice: two inputs have this name"):
        normalize_inputs([dataset, dataset])


@pytest.mark.parametrize("inputs", [[], [None], [5]])
def test_a_step_needs_an_input(inputs):
    """It is checked before anything is opened."""
    with pytest.raises(InputError):
        normalize_inputs(inputs)


def test_a_plan_that_cannot_be_written_is_an_output_error(files, tmp_path):
    """The error names the path."""
    with pytest.raises(OutputError, match="none"):
        write_plan(normalize_inputs([files]), 10, tmp_path / "none" / "plan")
