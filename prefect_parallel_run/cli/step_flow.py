"""A flow around one step, so that a step which nobody wrote a flow for is a flow run in Prefect."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

from prefect_parallel_run.cli._output import say
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.runs.run_directory import check_home
from prefect_parallel_run.step import ParallelRunStep

FLOW_NAME = "prefect-parallel-run"
_RETRIES = 2  #: of a call of Prefect's API, some 6 s; five, as is usual, are a minute for each call once a server has gone


def run_in_flow(step: ParallelRunStep, config: str, inputs: Sequence[str], output: str | None) -> ParallelRunResult:
    """Run a step in a flow run of its own and return the result.

    Args:
        step: To be run; the flow run has its name.
        config: Where its configuration is from; this and the following are the flow run's parameters, for people to see.
        inputs: Paths.
        output: Folder or URL.

    Raises:
        KeyboardInterrupt: The run was cancelled, by Ctrl-C or SIGTERM.
        ConnectionError: Prefect's API cannot be reached, or its embedded server does not start.
        PrefectHomeError: The embedded server cannot have its database in Prefect's home.
    """
    results: list[ParallelRunResult] = []

    def run_step(config: str, inputs: list[str], output: str | None) -> ParallelRunResult:  # noqa: ARG001  for people to see
        results.append(step())
        return results[-1]

    flow = Flow(run_step, name=FLOW_NAME, flow_run_name=step.name, validate_parameters=False, description=step.description)
    _connect()
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: _RETRIES}):
            return flow(config=config, inputs=list(inputs), output=output)
    except TerminationSignal:  # what Prefect makes of SIGTERM
        raise KeyboardInterrupt from None
    except httpx.HTTPError as error:
        if results:  # what counts is there
            say(f"Prefect's API has gone, and does not know how the run ended: {error}")
            return results[-1]
        raise ConnectionError(f"Prefect's API has gone: {error}") from error


def _connect() -> None:
    """Start Prefect's embedded server where none is configured, and find out whether there is an answer.

    Ctrl-C at a terminal reaches all processes of ours. The server is to live on until it has heard how the run ended: it
    inherits that the signal is held back, and is told otherwise when we end.
    """
    if not PREFECT_API_URL.value():
        check_home(Path(get_current_settings().home))  # else the server fails with tracebacks, after many seconds
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with get_client(sync_client=True) as client:
            failure = client.api_healthcheck()
    except RuntimeError as error:  # what Prefect says when its embedded server takes too long
        failure = error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if failure is not None:
        raise ConnectionError(f"Prefect's API cannot be reached: {failure}") from failure
