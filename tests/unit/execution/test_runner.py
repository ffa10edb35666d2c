"""The message about the result file that a run is about to replace."""

from types import SimpleNamespace

import pytest

from prefect_parallel_run.execution.runner import _warn_of_replacing
from prefect_parallel_run.runs.events import Noted, Warned
from prefect_parallel_run.runs.run_directory import RunDirectory, write_json
from prefect_parallel_run.storage.paths import RUNS_FOLDER

TOKEN = "20261125T224333-80d950"


@pytest.mark.parametrize(
    ("earlier", "said"),
    [
        ("facts-bbbbbbbbbbbb", [Noted]),  # other inputs, or another configuration
        ("facts-aaaaaaaaaaaa", []),
        ("other-facts-aaaaaaaaaaaa", [Warned]),
        (None, []),
    ],
)
def test_only_replacing_another_steps_result_is_a_warning(tmp_path, earlier, said):
    """A step that runs on new inputs is expected to replace its own result."""
    result = tmp_path / "facts.csv"
    result.touch()
    spec = SimpleNamespace(result=str(result), store=None, runs=tmp_path / RUNS_FOLDER)
    if earlier is not None:
        before = RunDirectory(spec.runs / f"{earlier}-{TOKEN}")
        before.make()
        write_json(before.description, {})
        write_json(before.receipt, {"output_file": spec.result})
    messages = []
    _warn_of_replacing(spec, RunDirectory(spec.runs / f"facts-aaaaaaaaaaaa-{TOKEN}"), messages.append)
    assert [type(event) for event in messages] == said
    assert all(f"the result of run {earlier}-{TOKEN}" in event.text for event in messages)
