"""What an exception asks for beyond a failed try."""

import enum

import pytest

from prefect_parallel_run.child.azureml_errors import ParallelRunException
from prefect_parallel_run.child.entry_script import NoRetry, RetryLater
from prefect_parallel_run.child.failure import RESTART, STOP, RetryDirective, retry_directive


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


class Throttled(RetryLater):
    pass


def elsewhere(seconds):
    """Return an exception of a script's own class, for where the package is not installed."""
    return type("RetryLater", (Exception,), {"seconds": seconds})()


@pytest.mark.parametrize(
    ("error", "wish"),
    [
        (ValueError("x"), RetryDirective()),
        (NoRetry("x"), RetryDirective(final=True)),
        (RetryLater(2.5), RetryDirective(retry_after=2.5)),
        (RetryLater(0), RetryDirective(retry_after=0.0)),
        (Throttled(7), RetryDirective(retry_after=7)),
        (elsewhere(float("inf")), RetryDirective(retry_after=1e9)),
        (elsewhere(10**400), RetryDirective()),
        (elsewhere(float("nan")), RetryDirective()),
        (elsewhere(None), RetryDirective()),
        (coded("x", seconds=5), RetryDirective()),
        (coded("NoRetry"), RetryDirective(final=True)),
        (coded("Retry.NoRetry"), RetryDirective(final=True)),
        (coded(Code.NoRetry), RetryDirective(final=True)),
        (coded(["NoRetry"]), RetryDirective()),
        (coded("Retry.StopProcess", delay_seconds=5), RetryDirective()),
        (SystemExit(3), RetryDirective()),
        (ParallelRunException("x"), RetryDirective()),
        (ParallelRunException("x", delay_seconds=3), RetryDirective(pause=3)),
        (ParallelRunException("x", "Retry.NoRetry", 2.5), RetryDirective(final=True, pause=2.5)),
        (ParallelRunException("x", code="Retry.Sleep", delay_seconds=3), RetryDirective(pause=3)),
        (ParallelRunException("x", code="Retry.RestartProcess"), RetryDirective(leave=RESTART)),
        (ParallelRunExceptionOfAnother("x", code="Retry.StopProcess", delay_seconds=1), RetryDirective(leave=STOP, pause=1)),
        (ParallelRunException("x", delay_seconds=float("nan")), RetryDirective()),
        (ParallelRunException("x", delay_seconds=-1), RetryDirective()),
        (ParallelRunException("x", delay_seconds="soon"), RetryDirective()),
        (ParallelRunException("x", delay_seconds=float("inf")), RetryDirective(pause=1e9)),
    ],
    ids=repr,
)
def test_directives(error, wish):
    """By the names of Azure's exception or of the stand-in."""
    assert retry_directive(error) == wish


@pytest.mark.parametrize(
    "seconds", [-1, float("nan"), float("inf"), -float("inf"), 10**400, "5", None, True], ids=lambda s: str(s)[:9]
)
def test_retry_later_needs_seconds(seconds):
    """A wrong value is an error where it is made, not a delay of zero or without an end."""
    with pytest.raises(ValueError, match="seconds: expected a finite number, 0 or more, got"):
        RetryLater(seconds)


def test_an_unknown_code_raises_in_the_constructor():
    """Not only when the exception is handled."""
    with pytest.raises(ValueError, match=r"code: expected Retry\.NoRetry, .*, got 'NoRetry'"):
        ParallelRunException("x", code="NoRetry")


def test_azure_exceptions_have_a_message():
    """As scripts read it."""
    error = ParallelRunException("words", inner_exception=ValueError("inner"), target="anything")
    assert (error.message, str(error), type(error).__module__) == ("words", "words", "azureml.exceptions")
