"""Mapped task runs of a step never replace each other's output."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import allow_failure, unmapped
from prefect.utilities.annotations import quote

from prefect_parallel_run import ParallelRunConfig, ParallelRunStep, parallel_run
from prefect_parallel_run.errors import OutputError


@parallel_run(error_threshold=0, output_action="append_row", output="same")
def from_function(paths):
    return paths


def step(output=None, **fields):
    fields = {"output_action": "append_row", **fields}
    return ParallelRunStep("score", ParallelRunConfig(entry_script=__file__, error_threshold=0, **fields), output=output)


def is_accepted(function, *args, **kwargs):
    """Return whether the step passes a mapping on to Prefect, which refuses it outside a flow."""
    with pytest.raises((ValueError, RuntimeError)) as caught:
        function(*args, **kwargs)
    if isinstance(caught.value, RuntimeError):
        assert "task runner to use for mapped task runs" in str(caught.value)
        return True
    assert "would publish to the same output, " in str(caught.value)
    assert str(caught.value).endswith("; pass one output for each element: output=[…]")
    return False


SPELLINGS = {
    "a": ["a", "./a/", Path("a"), "b/../a", f"file://{os.getcwd()}/a", allow_failure("a")],
    "b": ["b", os.path.abspath("b")],
    "remote": ["s3://bucket/a", "s3://bucket/a/"],
    "other": ["s3://bucket/b"],
}


@given(
    st.lists(st.sampled_from([(key, value) for key, values in SPELLINGS.items() for value in values]), min_size=1, max_size=4)
)
def test_elements_are_refused_if_two_have_one_output(pairs):
    """However the output is written."""
    outputs = [value for _, value in pairs]
    is_distinct = len({key for key, _ in pairs}) == len(pairs)
    for values in (outputs, iter(outputs), tuple(outputs), quote(outputs), allow_failure(iter(outputs))):
        assert is_accepted(step().map, inputs=[f"in{number}" for number in range(len(pairs))], output=values) == is_distinct


SHARED = {
    "constant": (step(), {"inputs": ["x", "y"], "output": "same"}),
    "unmapped": (step(), {"inputs": ["x", "y"], "output": unmapped("same")}),
    "own output": (step("same"), {"inputs": ["x", "y"]}),
    "iterator": (step("same"), {"inputs": iter(["x", "y"])}),
    "arguments": (step("same"), {"inputs": "x", "arguments": [["--a"], ["--b"]]}),
    "annotation": (step("same"), {"inputs": allow_failure(["x", "y"])}),
    "function": (from_function, {"inputs": ["x", "y"]}),
    "other options": (from_function.with_options(name="other"), {"inputs": ["x", "y"]}),
    "deferred": (step("same"), {"inputs": ["x", "y"], "deferred": True}),
}


@pytest.mark.parametrize("case", SHARED)
def test_one_output_for_several_elements_is_refused(case):
    """Wherever it comes from; nothing has been submitted then."""
    mapped, parameters = SHARED[case]
    assert not is_accepted(mapped.map, **parameters)


def test_the_error_names_the_elements_and_the_output():
    with pytest.raises(
        ValueError, match=rf"^score: elements 1 and 2 of .* same output, {re.escape(os.path.abspath('b'))}, and replace"
    ):
        step().map(inputs=["x", "y", "z"], output=["a", "b", "b/"])


def test_a_symbolic_link_is_the_folder_that_it_leads_to(tmp_path):
    (tmp_path / "link").symlink_to("folder")
    assert not is_accepted(step().map, inputs=["x", "y"], output=[tmp_path / "link", tmp_path / "folder"])


@pytest.mark.parametrize(
    ("mapped", "parameters"),
    [
        (step("same"), {"inputs": ["x"]}),
        (step("same"), {"inputs": ["x", "y"], "output": ["a", "b"]}),
        (step("same", output_action="summary_only"), {"inputs": ["x", "y"]}),
        (step(), {"inputs": ["x", "y"]}),
        (from_function, {"inputs": ["x", "y"], "output": ["a", "b"]}),
    ],
    ids=["one element", "own outputs", "summary only", "no output", "function"],
)
def test_other_mappings_are_left_to_prefect(mapped, parameters):
    """Without an output each run fails by itself."""
    assert is_accepted(mapped.map, **parameters)


def test_an_invalid_output_is_refused_before_anything_runs():
    with pytest.raises(OutputError, match="password"):
        step().map(inputs=["x", "y"], output=["a", "s3://me:secret@bucket/b"])
