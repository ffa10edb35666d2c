"""Getting into touch with a scheduler, and waiting for its workers; a person who cancels need not wait along."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError

from distributed import Client, Security

from prefect_parallel_run.compute.base import Request
from prefect_parallel_run.compute.bounded import CallAbandonedError, bounded
from prefect_parallel_run.errors import ComputeTargetError

_CONNECT_SLICE = 5.0  #: s of one attempt; between two of them it is seen whether anybody still waits
_CONNECT_TIMEOUT = 30.0  #: s
_ANSWER_TIMEOUT = 30.0  #: s for a scheduler to answer a question
_LEAVE_TIMEOUT = 2.0  #: s for it to hear that we go
_LOGGER = logging.getLogger(__name__)
_LOOK = 0.1  #: s between two looks at the workers


def connect(target: str, address: str, security: Security | None, cancelled: threading.Event) -> Client:
    """Return a client of the scheduler at *address*.

    Args:
        target: How the user calls it, for the error.
        address: As Dask writes it.
        security: Certificates; None takes those of Dask's own configuration.
        cancelled: Ends the attempt.

    Raises:
        ComputeTargetError: It does not answer, or refuses us.
    """
    deadline = time.monotonic() + _CONNECT_TIMEOUT
    while True:
        try:
            # One that is stopped, or hangs, takes the connection and never says a word.
            return bounded(
                lambda: Client(address, security=security, timeout=_CONNECT_SLICE, set_as_default=False),
                _CONNECT_TIMEOUT,
                cancelled,
                undo=leave,
            )
        except CallAbandonedError as error:
            raise ComputeTargetError(target, f"the scheduler at {address}: {error}") from error
        except (OSError, asyncio.TimeoutError) as error:
            if time.monotonic() > deadline or _is_final(error):
                words = f"no scheduler answers at {address}: {_cause(error)}"
                raise ComputeTargetError(target, words) from error
        except (ValueError, TypeError, RuntimeError) as error:  # an address or certificates that Dask cannot use
            raise ComputeTargetError(target, f"{address}: {error}") from error
        if cancelled.is_set():
            raise ComputeTargetError(target, "nobody waits for it any more")


def leave(client: Client) -> None:
    """Close a client; a scheduler that does not hear it will notice by itself."""
    try:
        bounded(lambda: client.close(timeout=_LEAVE_TIMEOUT), 2 * _LEAVE_TIMEOUT)
    except (OSError, asyncio.TimeoutError, CancelledError, CallAbandonedError) as error:
        _LOGGER.debug("the connection to the scheduler did not close well: %s: %s", type(error).__name__, error)


def wait_for_workers(
    target: str, client: Client, request: Request, cancelled: threading.Event, look: Callable[[], None] = lambda: None
) -> None:
    """Return when there are the workers that *request* begins with, or at its timeout when there is any.

    Args:
        target: How the user calls it, for the error.
        client: Of the scheduler.
        request: How many, and for how long.
        cancelled: Ends the wait.
        look: Called now and then; may raise ComputeTargetError when no worker can come any more.

    Raises:
        ComputeTargetError: There is none at the timeout, or the scheduler does not answer.
    """
    deadline = time.monotonic() + request.timeout
    while (there := worker_count(target, client, cancelled)) < request.first:
        if cancelled.is_set():
            raise ComputeTargetError(target, "nobody waits for it any more")
        look()
        if time.monotonic() > deadline:
            if there:
                return
            words = f"no worker has come within node_start_timeout = {request.timeout:g} s"
            raise ComputeTargetError(target, words)
        time.sleep(_LOOK)


def worker_count(target: str, client: Client, cancelled: threading.Event) -> int:
    """Return how many workers the scheduler has; arguments and errors are those of ``wait_for_workers``."""
    try:
        return len(bounded(client.nthreads, _ANSWER_TIMEOUT, cancelled))
    except (CallAbandonedError, OSError, asyncio.TimeoutError, CancelledError) as error:
        raise ComputeTargetError(target, f"the scheduler does not answer: {error}") from error


def _is_final(error: BaseException) -> bool:
    """True for what a second attempt cannot mend: certificates that are refused, or are not there."""
    text = _cause(error)
    if isinstance(error, FileNotFoundError | PermissionError):
        return True
    return "certificate" in text.lower() or "ssl" in text.lower()


def _cause(error: BaseException) -> str:
    """Return the innermost reason; what Dask puts around it says only that it timed out."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
