"""A flow around one step, so that a step which nobody wrote a flow for is a flow run in Prefect."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import Flow
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
    """

    def run_step(config: str, inputs: list[str], output: str | None) -> ParallelRunResult:  # noqa: ARG001  for people to see
        return step()

    flow = Flow(run_step, name=FLOW_NAME, flow_run_name=step.name, validate_parameters=False, description=step.description)
    try:
        return flow(config=config, inputs=list(inputs), output=output)
    except TerminationSignal:  # what Prefect makes of SIGTERM
        raise KeyboardInterrupt from None
