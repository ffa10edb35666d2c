"""What an exception of run() asks for beyond the failed try: no further one, a pause, another process, one process less. Pure.

Azure's ParallelRunException says so in its ``code`` and its ``delay_seconds``. It is known by its name: the script raises
the real one where azureml-core is installed, and ours (azure_errors.py) where it is not.
"""

from typing import Any, NamedTuple

RESTART, STOP = "restart", "stop"  #: how a process goes, and whether another takes its place
CODES = ("Retry.NoRetry", "Retry.Sleep", "Retry.RestartProcess", "Retry.StopProcess")
_LONGEST = 1e9  #: s; nobody lives to see more
_LEAVES = {"Retry.RestartProcess": RESTART, "Retry.StopProcess": STOP}


class RetryDirective(NamedTuple):
    """What a script asks for."""

    final: bool = False  #: another try cannot help
    leave: str = ""  #: RESTART or STOP: this process goes once it has answered
    pause: float = 0.0  #: s until the next mini-batch of this process, or of the one in its place


def retry_directive(error: BaseException) -> RetryDirective:
    """Return what *error* asks for: NoRetry by any class or ``code`` of that name, the rest as Azure's exception says it."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    code = getattr(error, "code", None)
    code = getattr(code, "name", code)
    is_final = "NoRetry" in kinds or (isinstance(code, str) and code in ("NoRetry", "Retry.NoRetry"))
    if "ParallelRunException" not in kinds:
        return RetryDirective(is_final)
    return RetryDirective(is_final, _LEAVES.get(str(code), ""), _seconds(getattr(error, "delay_seconds", 0)))


def _seconds(given: Any) -> float:
    """Return a number of seconds, 0 for what is none."""
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST) if seconds == seconds else 0.0  # noqa: PLR0124  NaN
