"""Gives an order to a run that goes on, and waits until whoever drives it has answered."""

from __future__ import annotations

import getpass
import os
import socket
import time
import uuid
from typing import Any

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.errors import ParallelRunError
from prefect_parallel_run.runs.commands import Order, check
from prefect_parallel_run.runs.control_files import LineTail, answer_in, append
from prefect_parallel_run.runs.run_directory import RunDirectory, no_run, place_here

PATIENCE = 10.0  #: s for the answer; one that listens takes a second
_GLANCE = 0.1  #: s between two looks for it


class RunNotActiveError(ParallelRunError):
    """An order was given to a run that cannot take it; *reason* says what to do."""

    def __init__(self, run_directory: str, reason: str) -> None:
        super().__init__(run_directory, reason)
        self.run_directory, self.reason = run_directory, reason

    def __str__(self) -> str:
        return f"run {self.run_directory}: {self.reason}"


def give(place: str, kind: str, values: dict[str, float], patience: float = PATIENCE) -> dict[str, Any]:
    """Give an order to the run whose directory is at a path or URL, and return what became of it.

    Args:
        place: As users see it.
        kind: pause, continue, limits, processes.
        values: Of limits and processes, by configuration field.
        patience: s for the answer.

    Returns:
        ``order``, ``id``, ``applied`` (None: there is no answer yet), ``answer`` (a sentence) and ``seconds``.

    Raises:
        ValueError: It is no order.
        NoRunError: There is no run directory.
        NotDrivenError: Nobody drives the run, or not where an order could be given.
    """
    began = time.monotonic()
    who = f"{getpass.getuser()}@{socket.gethostname()}/{os.getpid()}"
    check(kind, values)  # what is wrong is told before anything else
    directory = _directory(place)
    driver = _driver(place, directory)
    order = Order(id=uuid.uuid4().hex, at=time.time(), by=who, driver=driver, kind=kind, values=values)
    answers = LineTail(directory.answers)
    append(directory.orders, order.to_line())
    found = None
    while found is None and time.monotonic() - began < patience:
        time.sleep(_GLANCE)
        found = answer_in(answers, order.id)
    if found is None:
        found = {"applied": None, "answer": _silence(directory, patience)}
    seconds = round(time.monotonic() - began, 2)
    return {"order": str(order), "id": order.id, "applied": found["applied"], "answer": found["answer"], "seconds": seconds}


def _directory(place: str) -> RunDirectory:
    directory = RunDirectory(place_here(place))
    if directory.description.is_file():
        return directory
    if is_remote(place):
        words = f"it is not driven on this machine, where it would be worked on in {directory.path}"
        raise RunNotActiveError(place, f"{words}; give the order on the machine of its flow, with that flow's PREFECT_HOME")
    raise no_run(place, directory)


def _driver(place: str, directory: RunDirectory) -> str:
    """Return the name of the driving that goes on."""
    deadline = time.monotonic() + 1.0
    while (found := directory.driver()) is not None:
        if found["driver"]:
            return str(found["driver"])
        if time.monotonic() > deadline:  # it has not only just begun
            raise RunNotActiveError(
                place,
                f"process {found['pid']} on {found['host']}, which drives it, takes no orders: its version is an earlier one",
            )
        time.sleep(_GLANCE)
    if directory.receipt.exists():
        raise RunNotActiveError(place, "it is finished, and nobody drives it, so that there is nothing to control")
    words = "nobody drives it, so that there is nothing to control; go on with it, also with other limits or processes, by"
    raise RunNotActiveError(place, f"{words} prefect-parallel-run resume {place}")


def _silence(directory: RunDirectory, patience: float) -> str:
    if directory.driver() is None:
        return "the run has ended before it could take the order; nothing has changed"
    words = f"whoever drives the run has not answered within {patience:g} s, and follows the order as soon as it can"
    return f"{words}; what became of it will be in {directory.answers}"
