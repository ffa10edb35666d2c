"""Wraps one step in a flow, so that it has a flow run in Prefect although the user has not written a flow."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

from prefect_parallel_run.child.failure import storable
from prefect_parallel_run.cli._command import notify
from prefect_parallel_run.cli.step_options import StepOptions
from prefect_parallel_run.errors import ParallelRunError
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.runs.run_directory import check_home
from prefect_parallel_run.step import ParallelRunStep

FLOW_NAME = "prefect-parallel-run"
_MAX_LISTED_PATHS = 20  #: input paths shown on Prefect's page of the flow run
_RETRIES = 2  #: retries per Prefect API call, about 6 s; the default of five takes a minute per call when the server is down


def step_of(options: StepOptions) -> ParallelRunStep:
    """Return the step that the options describe."""
    return ParallelRunStep(
        options.name,
        options.config,
        inputs=options.inputs,
        output=options.output,
        side_inputs=dict(options.side_inputs) or None,
        arguments=options.arguments,
        allow_reuse=options.allow_reuse,
    )


def run_in_flow(options: StepOptions, config: str) -> ParallelRunResult:
    """Run a step in a flow run of its own, which has the step's name, and return the result.

    Args:
        options: The step.
        config: The configuration file, which Prefect shows as a parameter of the flow run.

    Raises:
        KeyboardInterrupt: The run was cancelled by Ctrl-C or SIGTERM.
        ConnectionError: Prefect's API is unreachable, or its temporary server does not start.
        PrefectHomeError: The temporary server cannot create its database in Prefect's home.
    """
    _hide_own_errors()
    step = step_of(options)
    results: list[ParallelRunResult] = []
    errors: list[ParallelRunError] = []

    def run_step(config: str, inputs: list[str], output: str | None) -> ParallelRunResult:  # noqa: ARG001  shown as the flow run's parameters
        try:
            results.append(step())
        except ParallelRunError as error:
            errors.append(error)
            raise
        return results[-1]

    flow = Flow(run_step, name=FLOW_NAME, flow_run_name=step.name, validate_parameters=False, description=step.description)
    _connect()
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: _RETRIES}):
            return flow(config=config, inputs=_preview_paths(options), output=options.output)
    except TerminationSignal:  # Prefect converts SIGTERM to this
        raise KeyboardInterrupt from None
    except httpx.HTTPError as error:
        if results or errors:  # the run itself has ended
            notify(f"lost the connection to Prefect's API, which does not know how the run ended: {error}")
            if errors:
                raise errors[-1] from None
            return results[-1]
        raise ConnectionError(f"lost the connection to Prefect's API: {error}") from error


def _connect() -> None:
    """Start Prefect's temporary server if no API is configured, and check that the API answers.

    Ctrl-C at a terminal reaches every process of the group, but the server must live until it has recorded how the run
    ended. It therefore inherits a blocked SIGINT; Prefect stops it when this process exits.
    """
    if not PREFECT_API_URL.value():
        check_home(Path(get_current_settings().home))  # otherwise the server fails with tracebacks, after many seconds
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with get_client(sync_client=True) as client:
            failure = client.api_healthcheck()
    except RuntimeError as error:  # raised by Prefect if its temporary server starts too slowly
        failure = error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if failure is not None:
        raise ConnectionError(f"cannot reach Prefect's API: {failure}") from failure


def _preview_paths(options: StepOptions) -> list[str]:
    paths = [path for dataset in options.inputs for path in dataset.paths]
    more = [f"… and {len(paths) - _MAX_LISTED_PATHS} more"] if len(paths) > _MAX_LISTED_PATHS else []
    return [storable(path) for path in paths[:_MAX_LISTED_PATHS]] + more


def _hide_own_errors() -> None:
    """Hide, on this console only, what Prefect logs of an exception of this package: the command prints its message."""
    for handler in {*logging.getLogger("prefect").handlers, *logging.getLogger().handlers}:
        if getattr(handler, "stream", None) is sys.stderr:
            handler.addFilter(_is_not_own_error)


def _is_not_own_error(record: logging.LogRecord) -> bool:
    """Return False for the record of an exception of this package; Prefect's API handlers still receive it."""
    return not (isinstance(record.exc_info, tuple) and isinstance(record.exc_info[1], ParallelRunError))
