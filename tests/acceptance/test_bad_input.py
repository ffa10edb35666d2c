"""Bad input gets a clear error, and loses nothing."""

import os
from pathlib import Path

import pytest

from prefect_parallel_run import (
    EntryScriptError,
    EnvironmentSetupError,
    FileDataset,
    InputError,
    LimitExceededError,
    OutputError,
    RunLockedError,
    TabularDataset,
)

pytestmark = pytest.mark.usefixtures("shared_cluster")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("no_run.py", r"no_run.py: it cannot be imported: .*lacks a function run"),
        ("syntax_error.py", r"syntax_error.py: it cannot be imported: SyntaxError[\s\S]*line \d"),
        ("init_raises.py", r"init_raises.py: its init\(\) failed: [\s\S]*Traceback[\s\S]*init_raises.py"),
        ("import_exits.py", r"import_exits.py: its process never became ready: .*exited with status 7"),
    ],
)
def test_a_script_that_cannot_start_ends_the_run_with_its_traceback(workshop, script, words):
    """At once, not after all tries of all mini-batches."""
    with pytest.raises(EntryScriptError, match=words):
        workshop.step(script, run_max_try=3)()


def test_a_missing_script_is_known_before_anything_begins(workshop):
    """When the configuration is made."""
    with pytest.raises(ValueError, match=r"entry_script is 'absent.py', which does not exist"):
        workshop.config("absent.py")


def test_an_environment_without_interpreter(workshop, tmp_path):
    """Names the path."""
    with pytest.raises(EnvironmentSetupError, match=r"the interpreter .*bin/python does not exist"):
        workshop.step(environment=str(tmp_path))()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "absent", r"absent: does not exist"),
        (lambda folder: str(folder / "*.none"), r"\*\.none: .*"),
        (lambda folder: [], "no input was passed"),
        (lambda folder: 7, "7: is not an input"),
        (lambda folder: TabularDataset.from_parquet_files([str(folder / "f001.txt")]), r"f001.txt: cannot be read as parquet"),
        (
            lambda folder: [FileDataset.from_files(folder), TabularDataset.from_delimited_files([str(folder / "f001.txt")])],
            "inputs of a step must be of one kind",
        ),
        (lambda folder: [FileDataset.from_files(folder).as_named_input("a")] * 2, "a: two inputs have this name"),
    ],
)
def test_inputs_that_are_none(workshop, make, words):
    """The error names the path or the value, and what is wrong with it."""
    with pytest.raises(InputError, match=words):
        workshop.step(inputs=make(workshop.files))()
    assert not workshop.log.exists()


def test_side_inputs_and_inputs_have_different_names(workshop):
    """So that arguments mean one thing."""
    with pytest.raises(InputError, match="input_0: two inputs have this name"):
        workshop.step(side_inputs={"input_0": workshop.files})()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_table(workshop):
    """Names the file."""
    table = workshop.folder / "t.csv"
    table.write_text("a\n1\n")
    table.chmod(0)
    with pytest.raises(InputError, match=r"t\.csv"):
        workshop.step(inputs=TabularDataset.from_delimited_files([str(table)]))()


def test_a_record_with_too_many_fields_fails_its_mini_batch_and_is_named(workshop):
    """File and record, as the user can look them up."""
    table = workshop.folder / "t.csv"
    table.write_text("a,b\n" + "1,2\n" * 500 + "1,2,3\n" + "1,2\n" * 500)
    step = workshop.step(
        "square.py", inputs=TabularDataset.from_delimited_files([str(table)]), mini_batch_size="1KB", error_threshold=0
    )
    with pytest.raises(LimitExceededError, match=r"t\.csv.*record 501.*3 fields"):
        step()


def test_an_output_that_is_a_file_or_cannot_be_made(workshop):
    """Names the path."""
    with pytest.raises(OutputError, match=r"f001.txt: is a file"):
        workshop.step(output=workshop.files / "f001.txt")()
    with pytest.raises(OutputError, match=r"cannot be created: Not a directory"):
        workshop.step(output=workshop.files / "f001.txt" / "out")()
    with pytest.raises(OutputError, match="append_row needs an output folder"):
        workshop.step().with_options()(output=None)


def test_the_result_file_is_a_folder(workshop):
    """Everything was run; the reduction says what is in the way, and the same again only repeats the reduction."""
    (workshop.output / "parallel_run_step.txt").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"parallel_run_step.txt: cannot be written: Is a directory"):
        workshop.step(run_max_try=1)()
    (workshop.output / "parallel_run_step.txt").rmdir()
    result = workshop.step(run_max_try=1)()
    assert Path(result.output_file).read_text().split() == sorted(os.listdir(workshop.files))
    assert len(workshop.invocations()) == 10


def test_a_second_driver_of_one_run_is_refused(workshop):
    """Naming who has it."""
    from prefect_parallel_run.runs.run_directory import RunDirectory

    with pytest.raises(LimitExceededError) as caught:
        workshop.step("poison.py", "--how", "raise", "--poison", "0", error_threshold=0, run_max_try=1)()
    with (
        RunDirectory(Path(caught.value.run_directory)).lock(),
        pytest.raises(RunLockedError, match=rf"locked by process {os.getpid()} on "),
    ):
        workshop.step("poison.py", "--how", "raise", "--poison", "0", error_threshold=20, run_max_try=1)()


def test_a_wrong_type_says_which(workshop):
    """And that is a failed try like any other."""
    with pytest.raises(LimitExceededError, match=r"run\(\) returned dict"):
        workshop.step("poison.py", "--how", "dict", "--poison", "2", error_threshold=0)()
    assert [attempt for index, attempt in workshop.invocations() if index == 2] == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x"], "as the first, got 'x'"),
        (["--run_max_try=3"], "--run_max_try is an option"),
        (["-a", "{inputs.no}"], "unknown placeholder"),
    ],
)
def test_arguments(workshop, arguments, words):
    """Checked when the step is made, as far as that is possible."""
    from prefect_parallel_run import ParallelRunStep

    with pytest.raises(ValueError, match=words):
        ParallelRunStep("a", workshop.config(), inputs=workshop.files, output=workshop.output, arguments=arguments)()
