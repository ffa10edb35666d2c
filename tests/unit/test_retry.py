"""What an exception asks for beyond a failed try."""

import enum

import pytest

from prefect_parallel_run.child.azureml.errors import ParallelRunException
from prefect_parallel_run.child.context import NoRetry
from prefect_parallel_run.child.retry import RESTART, STOP, Wish, wish_of


class Code(enum.Enum):
    NoRetry = 1


def coded(code, kind=Exception, **attributes):
    error = kind("x")
    error.code = code
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


class ParallelRunExceptionOfAnother(ParallelRunException):
    pass


@pytest.mark.parametrize(
    ("error", "wish"),
    [
        (ValueError("x"), Wish()),
        (NoRetry("x"), Wish(final=True)),
        (coded("NoRetry"), Wish(final=True)),
        (coded("Retry.NoRetry"), Wish(final=True)),
        (coded(Code.NoRetry), Wish(final=True)),
        (coded(["NoRetry"]), Wish()),
        (coded("Retry.StopProcess", delay_seconds=5), Wish()),
        (SystemExit(3), Wish()),
        (ParallelRunException("x"), Wish()),
        (ParallelRunException("x", delay_seconds=3), Wish(pause=3)),
        (ParallelRunException("x", "Retry.NoRetry", 2.5), Wish(final=True, pause=2.5)),
        (ParallelRunException("x", code="Retry.Sleep", delay_seconds=3), Wish(pause=3)),
        (ParallelRunException("x", code="Retry.RestartProcess"), Wish(leave=RESTART)),
        (ParallelRunExceptionOfAnother("x", code="Retry.StopProcess", delay_seconds=1), Wish(leave=STOP, pause=1)),
        (ParallelRunException("x", delay_seconds=float("nan")), Wish()),
        (ParallelRunException("x", delay_seconds=-1), Wish()),
        (ParallelRunException("x", delay_seconds="soon"), Wish()),
        (ParallelRunException("x", delay_seconds=float("inf")), Wish(pause=1e9)),
    ],
    ids=repr,
)
def test_wishes(error, wish):
    """By the names that Azure's exception has, or ours."""
    assert wish_of(error) == wish


def test_a_code_that_is_none_is_told_where_it_is_written():
    """Not when the exception is looked at."""
    with pytest.raises(ValueError, match=r"code is 'NoRetry'; accepted: Retry\.NoRetry, "):
        ParallelRunException("x", code="NoRetry")


def test_azures_exceptions_have_their_message():
    """As scripts read it."""
    error = ParallelRunException("words", inner_exception=ValueError("inner"), target="anything")
    assert (error.message, str(error), type(error).__module__) == ("words", "words", "azureml.exceptions")
