"""Calls of functions on Dask workers, whose outcome a thread can wait for and give up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from distributed import Client


async def ask_worker(client: Client, address: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what *function* returns on a worker; raise what it raises, or what the connection does."""
    answers = await client.run(function, *arguments, workers=[address], asynchronous=True)
    return next(iter(answers.values()))


def call_worker(client: Client, address: str, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Begin a call, and return what will come of it; an exception of the function or of the connection counts as that."""
    done: Future[Any] = Future()

    async def call() -> None:
        outcome: Any
        try:
            outcome = await ask_worker(client, address, function, *arguments)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  handed to the thread that drives the run
            outcome = error
        if done.set_running_or_notify_cancel():
            if isinstance(outcome, BaseException):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)

    client.loop.add_callback(call)
    return done
