"""Whose result a run is about to replace, and what is said of it."""

from types import SimpleNamespace

import pytest

from prefect_parallel_run.execution.runner import _tell_of_replacing
from prefect_parallel_run.runs.run_directory import FOLDER, RunDirectory, write_json

TOKEN = "20261125T224333-80d950"


@pytest.mark.parametrize(
    ("earlier", "said"),
    [
        ("facts-bbbbbbbbbbbb", ["noted"]),  # other inputs, or another configuration
        ("facts-aaaaaaaaaaaa", []),
        ("other-facts-aaaaaaaaaaaa", ["warned"]),
        (None, []),
    ],
)
def test_only_another_steps_result_is_worth_a_warning(tmp_path, earlier, said):
    """A step that runs again over new inputs replaces its own result, which is what was wanted."""
    result = tmp_path / "facts.csv"
    result.touch()
    spec = SimpleNamespace(result=str(result), store=None, runs=tmp_path / FOLDER)
    if earlier is not None:
        before = RunDirectory(spec.runs / f"{earlier}-{TOKEN}")
        before.make()
        write_json(before.description, {})
        write_json(before.receipt, {"output_file": spec.result})
    told = []
    watch = SimpleNamespace(warned=lambda text: told.append(("warned", text)), noted=lambda text: told.append(("noted", text)))
    _tell_of_replacing(spec, RunDirectory(spec.runs / f"facts-aaaaaaaaaaaa-{TOKEN}"), watch)
    assert [kind for kind, _ in told] == said
    assert all(f"the result of run {earlier}-{TOKEN}" in text for _, text in told)
