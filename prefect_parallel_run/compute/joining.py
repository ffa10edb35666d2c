"""Getting into touch with a scheduler, and waiting for its workers; a person who cancels need not wait along."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from distributed import Client, Security

from prefect_parallel_run.compute.base import Request
from prefect_parallel_run.errors import ComputeTargetError

_CONNECT_SLICE = 5.0  #: s of one attempt; between two of them it is seen whether anybody still waits
_CONNECT_TIMEOUT = 30.0  #: s
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
            return Client(address, security=security, timeout=_CONNECT_SLICE, set_as_default=False)
        except (OSError, asyncio.TimeoutError) as error:
            if time.monotonic() > deadline or _is_final(error):
                words = f"no scheduler answers at {address}: {_cause(error)}"
                raise ComputeTargetError(target, words) from error
        except (ValueError, TypeError, RuntimeError) as error:  # an address or certificates that Dask cannot use
            raise ComputeTargetError(target, f"{address}: {error}") from error
        if cancelled.is_set():
            raise ComputeTargetError(target, "nobody waits for it any more")


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
        ComputeTargetError: There is none at the timeout.
    """
    deadline = time.monotonic() + request.timeout
    while (there := worker_count(client)) < request.first:
        if cancelled.is_set():
            raise ComputeTargetError(target, "nobody waits for it any more")
        look()
        if time.monotonic() > deadline:
            if there:
                return
            words = f"no worker has come within node_start_timeout = {request.timeout:g} s"
            raise ComputeTargetError(target, words)
        time.sleep(_LOOK)


def worker_count(client: Client) -> int:
    """Return how many workers the scheduler has."""
    return len(client.nthreads())


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
