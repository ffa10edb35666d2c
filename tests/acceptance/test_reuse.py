"""A step whose result is reused has the state Cached in Prefect."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS, NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import PREFECT_RESULTS_LOCAL_STORAGE_PATH, PREFECT_TASKS_REFRESH_CACHE, temporary_settings

from prefect_parallel_run import InputError, LimitExceededError

from .conftest import wait_until

pytestmark = pytest.mark.usefixtures("shared_cluster")


@pytest.fixture
def storage(tmp_path):
    """Prefect's result storage, of this test alone."""
    with temporary_settings({PREFECT_RESULTS_LOCAL_STORAGE_PATH: tmp_path / "storage"}):
        yield tmp_path / "storage"


def run(step, **parameters):
    """Name of the state, and the result."""

    @flow(name="states")
    def states():
        state = step(**parameters, return_state=True)
        return state.name, state.result()

    return states()


def test_a_hit_is_cached_and_runs_nothing(workshop, storage, caplog):
    """Repeatedly, also if Prefect's storage has lost the record, as in another container."""
    name, first = run(workshop.step())
    assert (name, first.reused) == ("Completed", False)
    for is_cleared in (False, False, True):
        if is_cleared:
            shutil.rmtree(storage)
        name, again = run(workshop.step())
        assert (name, again.reused, again.seconds) == ("Cached", True, 0.0)
        assert again.model_copy(update={"reused": False, "seconds": first.seconds}) == first
    assert "reused from an earlier run" in caplog.text
    assert len(workshop.invocations()) == 10
    assert all(b"pickle" not in record.read_bytes() for record in storage.iterdir())


def test_any_difference_is_a_miss(workshop, storage):
    """Another input, argument, script or output; and limits that the failures now exceed."""
    step = workshop.step("poison.py", "--how", "raise", "--poison", "3", run_max_try=1)
    _, first = run(step)
    assert run(step)[0] == "Cached"
    with open(first.output_file, "a") as file:
        file.write("tampered\n")
    name, second = run(step)
    assert (name, second.reused) == ("Completed", False)
    Path(second.output_file).unlink()
    assert run(step)[0] == "Completed"
    (workshop.files / "f003.txt").write_text("changed")
    assert run(step)[0] == "Completed"
    assert run(workshop.step("poison.py", "--how", "raise", "--poison", "4", run_max_try=1))[0] == "Completed"
    assert run(step)[0] == "Completed"  # the result file is that of the other arguments
    strict = workshop.step("poison.py", "--how", "raise", "--poison", "3", run_max_try=1, error_threshold=0)
    with pytest.raises(LimitExceededError):
        run(strict)


def test_files_that_the_script_writes_itself_count(workshop, storage):
    """If its arguments contain the output; otherwise files beside the result are not the script's."""
    for words, expected in (((), "Cached"), (("--beside", "{output}/models"), "Completed")):
        step = workshop.step("counts.py", *words)
        model = workshop.output / "models" / "a.bin"
        model.parent.mkdir(parents=True, exist_ok=True)
        model.write_bytes(b"model")  # as if the script had
        assert run(step)[0] == "Completed"
        assert run(step)[0] == "Cached"
        model.unlink()
        assert run(step)[0] == expected


def test_a_new_run_can_be_requested(workshop, storage):
    """With Prefect's settings, and with ours."""
    step = workshop.step()
    runs = [run(step)[1].run_id]
    assert run(step)[0] == "Cached"
    for other in (
        step.with_options(refresh_cache=True),
        step.with_options(cache_expiration=timedelta(0)),
        step.with_options(cache_policy=NO_CACHE),
        workshop.step(allow_reuse=False),
    ):
        name, result = run(other)
        assert (name, result.reused) == ("Completed", False)
        runs.append(result.run_id)
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
        name, result = run(step)
    assert (name, result.reused) == ("Completed", False)
    assert len({*runs, result.run_id}) == 6
    name, latest = run(step.with_options(cache_expiration=timedelta(hours=1)))
    assert (name, latest.run_id) == ("Cached", result.run_id)


def test_a_custom_cache_policy_replaces_ours(workshop, storage):
    """Prefect handles its key; ours is not computed."""
    step = workshop.step().with_options(cache_policy=INPUTS)
    assert [run(step)[0] for _ in range(2)] == ["Completed", "Cached"]
    Path(workshop.output / "parallel_run_step.txt").unlink()
    assert run(step)[0] == "Cached"


def test_without_prefects_storage_the_step_reuses_the_result(workshop, storage):
    """With persist_result=False, or a storage that fails: Completed in Prefect, reused in the result."""
    first = run(workshop.step())[1]
    name, again = run(workshop.step().with_options(persist_result=False))
    assert (name, again.reused, again.run_id) == ("Completed", True, first.run_id)
    shutil.rmtree(storage)
    storage.write_text("is no folder")
    name, again = run(workshop.step())
    assert (name, again.reused, again.run_id) == ("Completed", True, first.run_id)


def test_errors_come_from_the_run_and_survive_the_storage(workshop, storage):
    """A wrong input is the run's error, not only a log line; stored as JSON, it is the same error."""
    run(workshop.step())  # so that there is something to look for
    shutil.rmtree(workshop.files)

    states = []

    @flow(name="fails")
    def fails():
        states.append(workshop.step()(return_state=True))

    fails()
    with get_client(sync_client=True) as client:
        runs = FlowRunFilter(id=FlowRunFilterId(any_=[states[0].state_details.flow_run_id]))
        ended = wait_until(
            lambda: [run.state for run in client.read_task_runs(flow_run_filter=runs) if run.state and run.state.is_failed()]
        )
    for state in (*states, *ended):
        with pytest.raises(InputError, match="does not exist"):
            state.result()


def test_submitted_mapped_and_composed(workshop, storage):
    """Futures are resolved before the key is computed; a result as input stands for its files."""

    @task
    def folder():
        return str(workshop.files)

    @flow(name="composed")
    def composed():
        first = workshop.step().submit(inputs=folder.submit())
        second = workshop.step("counts.py", name="second", output=workshop.folder / "second").submit(inputs=first)
        outputs = [workshop.folder / "third", workshop.folder / "fourth"]
        futures = [first, second, *workshop.step(name="third").map(inputs=[first, second], output=outputs)]
        return [future.wait() or future.state.name for future in futures]

    assert composed() == ["Completed"] * 4
    assert composed() == ["Cached"] * 4
