"""Calls functions on Dask workers; a thread can wait for the result or abandon the call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from distributed import Client


async def ask_worker(client: Client, address: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of *function* on a worker; raises its error, or that of the connection."""
    answers = await client.run(function, *arguments, workers=[address], asynchronous=True)
    return next(iter(answers.values()))


def call_worker(client: Client, address: str, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Start a call and return its future, which also carries errors of the function or of the connection."""
    done: Future[Any] = Future()

    async def call() -> None:
        outcome: Any
        try:
            outcome = await ask_worker(client, address, function, *arguments)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  passed to the dispatcher's thread
            outcome = error
        if done.set_running_or_notify_cancel():
            if isinstance(outcome, BaseException):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)

    client.loop.add_callback(call)
    return done
