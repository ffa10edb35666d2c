"""Connects to a scheduler and waits for its workers; both can be cancelled."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError

from distributed import Client, Security

from prefect_parallel_run._threads import CallAbandonedError, call_with_timeout
from prefect_parallel_run.compute.base import Request
from prefect_parallel_run.errors import ComputeTargetError

_CONNECT_SLICE = 5.0  #: s of one attempt; errors that another attempt cannot fix are reported after the first
_CONNECT_TIMEOUT = 30.0  #: s
_ANSWER_TIMEOUT = 30.0  #: s for a scheduler to answer
_LEAVE_TIMEOUT = 2.0  #: s for the client to close
_LOGGER = logging.getLogger(__name__)


def connect(target: str, address: str, security: Security | None, cancelled: threading.Event) -> Client:
    """Return a client of the scheduler at *address*.

    Args:
        target: The user's name for it, for errors.
        address: In Dask's notation.
        security: Certificates; None uses those of Dask's configuration.
        cancelled: Ends the attempt.

    Raises:
        ComputeTargetError: The scheduler does not answer, or refuses the connection.
    """
    deadline = time.monotonic() + _CONNECT_TIMEOUT
    while not cancelled.is_set():
        try:
            # A stopped or hanging scheduler accepts the connection and never answers.
            return call_with_timeout(
                lambda: Client(address, security=security, timeout=_CONNECT_SLICE, set_as_default=False),
                _CONNECT_TIMEOUT,
                cancelled,
                undo=leave,
            )
        except CallAbandonedError as error:
            raise ComputeTargetError(target, f"the scheduler at {address}: {error}") from error
        except (OSError, asyncio.TimeoutError) as error:
            if time.monotonic() > deadline or _is_final(error):
                raise ComputeTargetError(target, f"no scheduler answers at {address}: {_cause(error)}") from error
        except (ValueError, TypeError, RuntimeError) as error:  # an address or certificates that Dask cannot use
            raise ComputeTargetError(target, f"{address}: {error}") from error
    raise ComputeTargetError(target, "cancelled")


def leave(client: Client) -> None:
    """Close a client; a scheduler that does not receive this detects the closed connection later."""
    try:
        call_with_timeout(lambda: client.close(timeout=_LEAVE_TIMEOUT), 2 * _LEAVE_TIMEOUT)
    except (OSError, asyncio.TimeoutError, CancelledError, CallAbandonedError) as error:
        _LOGGER.debug("closing the connection to the scheduler failed: %s: %s", type(error).__name__, error)


def wait_for_workers(
    target: str, request: Request, cancelled: threading.Event, count: Callable[[], int], interval: float = 0.1
) -> None:
    """Wait for the first workers of *request*; at its timeout, return if there is at least one.

    Args:
        target: The user's name for the cluster, for errors.
        request: Number of workers, and timeout.
        cancelled: Ends the wait.
        count: Returns the number of workers; may raise ComputeTargetError when none can join any more.
        interval: s between two calls of *count*.

    Raises:
        ComputeTargetError: There is no worker at the timeout, or the wait was cancelled.
    """
    deadline = time.monotonic() + request.timeout
    while (workers := count()) < request.first:
        if time.monotonic() > deadline:
            if workers:
                return
            raise ComputeTargetError(target, f"no worker joined within node_start_timeout = {request.timeout:g} s")
        if cancelled.wait(interval):
            raise ComputeTargetError(target, "cancelled")


def worker_count(target: str, client: Client, cancelled: threading.Event) -> int:
    """Return the number of the scheduler's workers; raises ComputeTargetError when it does not answer."""
    try:
        return len(call_with_timeout(client.nthreads, _ANSWER_TIMEOUT, cancelled))
    except (CallAbandonedError, OSError, asyncio.TimeoutError, CancelledError) as error:
        raise ComputeTargetError(target, f"the scheduler does not answer: {error}") from error


def _is_final(error: BaseException) -> bool:
    """True for errors that a second attempt cannot fix: missing or refused certificates."""
    text = _cause(error).lower()
    return isinstance(error, FileNotFoundError | PermissionError) or "certificate" in text or "ssl" in text


def _cause(error: BaseException) -> str:
    """Return the innermost cause; Dask's own exception only says that it timed out."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
