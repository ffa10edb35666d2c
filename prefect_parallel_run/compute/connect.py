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

_CONNECT_SLICE = 5.0  #: s of one attempt; cancellation is checked between two attempts
_CONNECT_TIMEOUT = 30.0  #: s
_ANSWER_TIMEOUT = 30.0  #: s for a scheduler to answer
_LEAVE_TIMEOUT = 2.0  #: s for the client to close
_LOGGER = logging.getLogger(__name__)
_POLL_INTERVAL = 0.1  #: s


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
    while True:
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
        if cancelled.is_set():
            raise ComputeTargetError(target, "cancelled")


def leave(client: Client) -> None:
    """Close a client; a scheduler that does not receive this detects the closed connection later."""
    try:
        call_with_timeout(lambda: client.close(timeout=_LEAVE_TIMEOUT), 2 * _LEAVE_TIMEOUT)
    except (OSError, asyncio.TimeoutError, CancelledError, CallAbandonedError) as error:
        _LOGGER.debug("closing the connection to the scheduler failed: %s: %s", type(error).__name__, error)


def wait_for_workers(
    target: str, client: Client, request: Request, cancelled: threading.Event, check: Callable[[], None] = lambda: None
) -> None:
    """Wait for the first workers of *request*; at its timeout, return if there is at least one.

    Args:
        target: The user's name for it, for errors.
        client: Client of the scheduler.
        request: Number of workers, and timeout.
        cancelled: Ends the wait.
        check: Called repeatedly; may raise ComputeTargetError when no worker can join any more.

    Raises:
        ComputeTargetError: There is no worker at the timeout, or the scheduler does not answer.
    """
    deadline = time.monotonic() + request.timeout
    while (count := worker_count(target, client, cancelled)) < request.first:
        if cancelled.is_set():
            raise ComputeTargetError(target, "cancelled")
        check()
        if time.monotonic() > deadline:
            if count:
                return
            message = f"no worker joined within node_start_timeout = {request.timeout:g} s"
            raise ComputeTargetError(target, message)
        time.sleep(_POLL_INTERVAL)


def worker_count(target: str, client: Client, cancelled: threading.Event) -> int:
    """Return the number of the scheduler's workers; arguments and errors are those of ``wait_for_workers``."""
    try:
        return len(call_with_timeout(client.nthreads, _ANSWER_TIMEOUT, cancelled))
    except (CallAbandonedError, OSError, asyncio.TimeoutError, CancelledError) as error:
        raise ComputeTargetError(target, f"the scheduler does not answer: {error}") from error


def _is_final(error: BaseException) -> bool:
    """True for errors that a second attempt cannot fix: missing or refused certificates."""
    text = _cause(error)
    if isinstance(error, FileNotFoundError | PermissionError):
        return True
    return "certificate" in text.lower() or "ssl" in text.lower()


def _cause(error: BaseException) -> str:
    """Return the innermost cause; Dask's own exception only says that it timed out."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
