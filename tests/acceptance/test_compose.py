"""A step in a flow is a task like any other."""

import asyncio
import json
from pathlib import Path

import pandas as pd
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.states import Completed

from prefect_parallel_run import FileDataset, ParallelRunResult, ParallelRunStep, TabularDataset

from .conftest import wait_until_equal

pytestmark = pytest.mark.usefixtures("shared_cluster")

NAMES = [f"f{number:03d}.txt" for number in range(100)]


def lines(result):
    return Path(result.output_file).read_text().splitlines()


def task_runs(flow_run_id):
    with get_client(sync_client=True) as client:
        return client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])), limit=200)


def in_flow(body, **options):
    """Run *body* as a flow; return what it returned, and the flow run's id."""
    found = []

    @flow(name="test")
    def run():
        from prefect.runtime import flow_run

        found.append(flow_run.id)
        return body()

    return run(**options), found[0]


@pytest.mark.parametrize("size", [1, 50])
def test_called_in_a_flow_it_is_one_task_run_with_reduce_below_it(workshop, size):
    """Whatever the number of mini-batches; rows come in the order of the files."""
    step = workshop.step(mini_batch_size=size, node_count=2)
    result, flow_run = in_flow(step)
    assert isinstance(result, ParallelRunResult)
    assert lines(result) == NAMES
    states = [("test", "Completed"), ("test reduce", "Completed")]
    wait_until_equal(lambda: sorted((run.name, run.state_name) for run in task_runs(flow_run)), states)
    assert (result.mini_batches_total, result.mini_batches_succeeded) == (100 // size, 100 // size)
    assert (result.items_total, result.items_succeeded, result.items_failed, result.rows) == (100, 100, 0, 100)
    receipt = json.loads(Path(result.receipt).read_text())
    assert receipt["items"] == {"total": 100, "succeeded": 100, "failed": 0, "not_reached": 0}
    assert ParallelRunResult.model_validate_json(result.model_dump_json()) == result
    assert len(workshop.invocations()) == 100 // size
    started = [line for line in workshop.log.read_text().splitlines() if line.startswith("init")]
    ended = [line for line in workshop.log.read_text().splitlines() if line.startswith("shutdown")]
    assert 1 <= len(ended) <= len(started) <= 4  # once each; one that was still starting at the end is not waited for


def test_without_a_flow(workshop):
    """A task can be called outside a flow."""
    assert lines(workshop.step()()) == NAMES


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Prefect leaves a socket to its server open
def test_in_an_async_flow(workshop):
    """Called from a coroutine, like any task that is no coroutine."""
    step = workshop.step()

    @flow
    async def run():
        return step()

    assert lines(asyncio.run(run())) == NAMES


def test_submitted_with_futures_as_inputs_and_results_as_inputs(workshop):
    """Futures are waited for, in the step's own arguments and in the call's; a result stands for what it wrote."""

    @task
    def make(folder):
        pd.DataFrame({"a": range(1000)}).to_parquet(folder / "t.parquet")
        return TabularDataset.from_parquet_files([str(folder / "t.parquet")]).as_named_input("table")

    def body():
        table = make.submit(workshop.folder)
        first = workshop.step(
            "square.py", name="first", mini_batch_size="1KB", append_row_file_name="one.csv", append_row_format="csv"
        ).submit(inputs=table)
        second = workshop.step(
            "square.py",
            name="second",
            mini_batch_size="1KB",
            append_row_file_name="two.csv",
            append_row_format="csv",
            inputs=[first],
        ).submit(wait_for=[table])
        return first.result(), second.result()

    (one, two), _ = in_flow(body)
    expected = pd.DataFrame({"a": range(1000)}).assign(twice=lambda frame: frame["a"] * 2)
    pd.testing.assert_frame_equal(pd.read_csv(one.output_file), expected)
    pd.testing.assert_frame_equal(pd.read_csv(two.output_file), expected)
    assert two.mini_batches_total > 1


def test_mapped_over_inputs_and_outputs(workshop):
    """Several runs of one step at the same time do not get into each other's way."""
    folders = []
    for number in range(3):
        folder = workshop.folder / f"in{number}"
        folder.mkdir()
        (folder / f"only{number}.txt").write_text("x")
        folders.append(str(folder))
    outputs = [str(workshop.folder / f"out{number}") for number in range(3)]
    results, _ = in_flow(lambda: workshop.step().map(inputs=folders, output=outputs).result())
    assert [lines(result) for result in results] == [["only0.txt"], ["only1.txt"], ["only2.txt"]]


def test_mapping_to_one_output_runs_nothing(workshop):
    """Also over futures, whose number is known when they have ended; runs would replace each other's rows."""

    @task
    def folders(count):
        return [str(workshop.files)] * count

    def body():
        step, refused = workshop.step(), []
        output = folders.submit(1)
        for inputs in (folders.submit(2), [folders.submit(1)] * 2):
            for options in ({}, {"output": [output, output]}):
                with pytest.raises(ValueError, match=r"elements 0 and 1 .* same output") as caught:
                    step.map(inputs=inputs, **options)
                refused.append(str(caught.value))
        (result,) = step.map(inputs=folders.submit(1)).result()
        return refused, lines(result)

    (refused, rows), _ = in_flow(body)
    assert [str(workshop.output) in text for text in refused] == [True, False] * 2
    assert rows == NAMES
    assert len(workshop.invocations()) == 10


def test_with_options_retries_mean_tries(workshop):
    """retries=n is run_max_try = n + 1; the step stays a step, with its arguments."""
    step = workshop.step("poison.py", "--how", "raise", "--poison", "3", run_max_try=5)
    assert step.retries == 4
    other = step.with_options(retries=1, tags=["blue"])
    assert isinstance(other, ParallelRunStep)
    assert (other.retries, other.parallel_run_config.run_max_try, other.tags) == (1, 2, {"blue"})
    result, _ = in_flow(other)
    assert [attempt for index, attempt in workshop.invocations() if index == 3] == [1, 2]
    assert (result.mini_batches_failed, result.items_failed) == (1, 10)


def test_arguments_and_side_inputs_reach_the_script(workshop):
    """With their placeholders replaced, also when the call overrides them."""
    side = workshop.folder / "model.bin"
    side.write_text("model")
    step = workshop.step("context_facts.py", side_inputs={"model": side}, mini_batch_size=100)
    arguments = ["--model", "{side_inputs.model}", "--out={output}", "--in", "{inputs.files}", "-x", "-x"]
    inputs = FileDataset.from_files(workshop.files).as_named_input("files")
    result, _ = in_flow(lambda: step(inputs=inputs, arguments=arguments))
    facts = json.loads(lines(result)[0])
    expected = ["--model", str(side), f"--out={workshop.output}", "--in", str(workshop.files), "-x", "-x"]
    assert facts["argv"][1:] == expected
    assert facts["side_inputs"] == {"model": str(side)}
    assert facts["output_dir"] == str(workshop.output)


def test_the_same_again_returns_the_earlier_result(workshop):
    """And runs again as soon as an input, an argument or the output is another."""
    first, _ = in_flow(workshop.step())
    again, _ = in_flow(workshop.step())
    assert again.reused
    assert (again.run_id, again.rows) == (first.run_id, first.rows)
    assert len(workshop.invocations()) == 10
    runs = {first.run_id}
    (workshop.files / "f003.txt").write_text("changed")
    runs.add(in_flow(workshop.step())[0].run_id)
    runs.add(in_flow(workshop.step("counts.py", "--more"))[0].run_id)
    with open(first.output_file, "a") as file:
        file.write("tampered\n")
    last = in_flow(workshop.step("counts.py", "--more"))[0]
    assert not last.reused
    assert lines(last) == NAMES
    assert len({*runs, last.run_id}) == 4
    assert not in_flow(workshop.step("counts.py", "--more", allow_reuse=False))[0].reused


def test_two_steps_of_one_flow_with_other_configurations_have_their_own_results(workshop):
    """Prefect's default caching would give the second the first one's result."""

    def body():
        one = workshop.step(append_row_file_name="one.txt", name="same")()
        other = workshop.step(append_row_file_name="two.txt", mini_batch_size=50, name="same")()
        return one, other

    (one, other), _ = in_flow(body)
    assert (one.mini_batches_total, other.mini_batches_total) == (10, 2)


def test_the_result_can_be_a_state(workshop):
    """return_state=True, as for any task."""
    state, _ = in_flow(lambda: Completed(data=workshop.step()(return_state=True).result().rows))
    assert state == 100
