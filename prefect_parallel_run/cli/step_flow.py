"""A flow around one step, so that a step which nobody wrote a flow for is a flow run in Prefect."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal

from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.step import ParallelRunStep

FLOW_NAME = "prefect-parallel-run"


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
    """

    def run_step(config: str, inputs: list[str], output: str | None) -> ParallelRunResult:  # noqa: ARG001  for people to see
        return step()

    flow = Flow(run_step, name=FLOW_NAME, flow_run_name=step.name, validate_parameters=False, description=step.description)
    _connect()
    try:
        return flow(config=config, inputs=list(inputs), output=output)
    except TerminationSignal:  # what Prefect makes of SIGTERM
        raise KeyboardInterrupt from None
    except httpx.HTTPError as error:
        raise ConnectionError(f"Prefect's API has gone: {error}") from error


def _connect() -> None:
    """Start Prefect's embedded server where none is configured, and find out whether there is an answer.

    Ctrl-C at a terminal reaches all processes of ours. The server is to live on until it has heard how the run ended: it
    inherits that the signal is held back, and is told otherwise when we end.
    """
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
