"""What steps return and raise, in Prefect's result storage."""

import pytest
from pydantic import BaseModel, ValidationError

from prefect_parallel_run import errors
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.task.result_serializer import RESULT_SERIALIZER

RESULT = ParallelRunResult(
    name="n",
    run_id="r",
    output=None,
    output_file=None,
    output_format=None,
    run_directory="/r",
    receipt="/r/receipt.json",
    **dict.fromkeys([name for name in ParallelRunResult.model_fields if name.startswith(("mini_batches_", "items_"))], 1),
    rows=1,
    seconds=0.5,
    limits={"error_threshold": None},
)


def again(value):
    kept = RESULT_SERIALIZER.dumps(value)
    assert b"pickle" not in kept
    return RESULT_SERIALIZER.loads(kept)


def test_a_result_comes_back():
    """As the same model."""
    assert again(RESULT) == RESULT
    assert again([RESULT]) == [RESULT]


@pytest.mark.parametrize(
    "error",
    [
        errors.LimitExceededError("error_threshold", 1, 2, "/run", "mini-batch 0: X: y"),
        errors.InputChangedError("/run", ("a changed", "b is gone")),
        errors.ComputeTargetError("local", "gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_ours_comes_back_with_its_facts(error):
    """Prefect's own JSON would fail to make it of its text."""
    found = again(error)
    assert type(found) is type(error)
    assert (vars(found), str(found)) == (vars(error), str(error))


def test_other_errors_come_back_by_their_text():
    """One of pydantic's as the ValueError that it is."""
    assert (type(again(OSError("full"))), str(again(OSError("full")))) == (OSError, "full")

    class Model(BaseModel):
        number: int

    with pytest.raises(ValidationError) as caught:
        Model(number="x")
    assert type(again(caught.value)) is ValueError
    assert "number" in str(again(caught.value))


def test_no_other_class_is_made():
    """Whatever a file says."""
    with pytest.raises(ValueError, match="is no error of"):
        RESULT_SERIALIZER.loads(b'{"__parallel_run_error__": "annotations", "facts": []}')
