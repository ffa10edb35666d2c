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


def round_trip(value):
    kept = RESULT_SERIALIZER.dumps(value)
    assert b"pickle" not in kept
    return RESULT_SERIALIZER.loads(kept)


def test_a_result_survives_a_round_trip():
    """As an equal model."""
    assert round_trip(RESULT) == RESULT
    assert round_trip([RESULT]) == [RESULT]


@pytest.mark.parametrize(
    "error",
    [
        errors.LimitExceededError("error_threshold", 1, 2, "/run", "mini-batch 0: X: y"),
        errors.InputChangedError("/run", ("a changed", "b is gone")),
        errors.ComputeTargetError("local", "gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_ours_keeps_its_attributes(error):
    """Prefect's own JSON cannot rebuild it from its message."""
    decoded = round_trip(error)
    assert type(decoded) is type(error)
    assert (vars(decoded), str(decoded)) == (vars(error), str(error))


def test_other_errors_keep_type_and_message():
    """A pydantic ValidationError becomes a ValueError."""
    assert (type(round_trip(OSError("full"))), str(round_trip(OSError("full")))) == (OSError, "full")

    class Model(BaseModel):
        number: int

    with pytest.raises(ValidationError) as caught:
        Model(number="x")
    assert type(round_trip(caught.value)) is ValueError
    assert "number" in str(round_trip(caught.value))


def test_no_other_class_is_created():
    """A file must not choose arbitrary classes."""
    with pytest.raises(ValueError, match="is not an error of"):
        RESULT_SERIALIZER.loads(b'{"__parallel_run_error__": "annotations", "facts": []}')
