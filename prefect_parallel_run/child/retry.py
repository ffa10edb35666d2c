"""Requests of an exception of run(): no further attempt, a pause, another process, one process less. Pure.

Azure's ParallelRunException has them in ``code`` and ``delay_seconds``. It is recognised by its name: the script raises the
real one if azureml-core is installed, else the stand-in (azureml/errors.py).
"""

from typing import Any, NamedTuple

RESTART, STOP = "restart", "stop"  #: exit with or without a replacement
CODES = ("Retry.NoRetry", "Retry.Sleep", "Retry.RestartProcess", "Retry.StopProcess")
_LONGEST = 1e9  #: s
_LEAVES = {"Retry.RestartProcess": RESTART, "Retry.StopProcess": STOP}


class RetryDirective(NamedTuple):
    """The requests of a script."""

    final: bool = False  #: another attempt cannot help
    leave: str = ""  #: RESTART or STOP: this process exits once it has answered
    pause: float = 0.0  #: s until the next mini-batch of this process, or of its replacement


def retry_directive(error: BaseException) -> RetryDirective:
    """Return the requests of *error*: NoRetry by a class or ``code`` of that name, the others by Azure's exception only."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    code = getattr(error, "code", None)
    code = getattr(code, "name", code)
    is_final = "NoRetry" in kinds or (isinstance(code, str) and code in ("NoRetry", "Retry.NoRetry"))
    if "ParallelRunException" not in kinds:
        return RetryDirective(is_final)
    return RetryDirective(is_final, _LEAVES.get(str(code), ""), _seconds(getattr(error, "delay_seconds", 0)))


def _seconds(value: Any) -> float:
    """Return a number of seconds, 0 for an invalid value."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST) if seconds == seconds else 0.0  # noqa: PLR0124  NaN
