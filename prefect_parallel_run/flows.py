"""The ready-made flow: one ParallelRunStep, deployable as it is; its parameters make a form in Prefect's UI."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from prefect_parallel_run.config import ParallelRunConfig
from prefect_parallel_run.datasets.base import Dataset, PathLike
from prefect_parallel_run.form import Input, Settings, SettingsFile, ShownAs, SideInput, configuration, dataset
from prefect_parallel_run.form import side_inputs as _side_inputs
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.step import ParallelRunStep

_STEP_NAME = "^[A-Za-z0-9][A-Za-z0-9 _.-]{0,99}$"
_PREFECT_S_OWN_NAME = re.compile("[a-z]+-[a-z]+", re.IGNORECASE)  # two words, such as copper-bison, made up for every run
_Input = PathLike | Dataset | ParallelRunResult | Input | Mapping[str, Any]


def _label(title: str, **more: Any) -> Any:
    return Field(json_schema_extra={"title": title}, **more)


def _run_name() -> str:
    """Return a name that people can read: the step's, and the name that somebody gave the run, or else when it was due."""
    step, given = str(flow_run.parameters.get("name", "parallel run")), str(flow_run.name or "")
    return run_name(step, given, flow_run.scheduled_start_time or datetime.now(timezone.utc))


def run_name(step: str, given: str, due: datetime) -> str:
    """Return the name of a flow run, the same again for one that has it already.

    >>> due = datetime(2026, 1, 31, 6, 0, tzinfo=timezone.utc)
    >>> run_name("score", "copper-bison", due), run_name("score", "January again", due), run_name("score", "score: x", due)
    ('score: 2026-01-31 06:00 UTC', 'score: January again', 'score: x')
    """
    if given.startswith(f"{step}: "):
        return given
    is_made_up = not given or _PREFECT_S_OWN_NAME.fullmatch(given) is not None
    return f"{step}: {due.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC" if is_made_up else f"{step}: {given}"


# Parameters are made into models here and not by Prefect, which would log them, secrets included, when one is wrong.
@flow(
    name="parallel-run",
    description="Runs a script over files or tables, in parallel: one ParallelRunStep.",
    flow_run_name=_run_name,
    validate_parameters=False,
    persist_result=True,
    result_serializer="json",
)
def parallel_run(
    *,
    name: Annotated[str, _label("Step name", pattern=_STEP_NAME)],
    inputs: Annotated[_Input | Sequence[_Input], ShownAs(list[Input]), _label("Inputs", min_length=1)],
    output: Annotated[PathLike | ParallelRunResult | None, ShownAs(str), _label("Output")] = "",
    arguments: Annotated[Sequence[Any], ShownAs(list[str]), _label("Arguments")] = (),
    side_inputs: Annotated[
        Mapping[str, Any] | Sequence[SideInput | Mapping[str, str]], ShownAs(list[SideInput]), _label("Side inputs")
    ] = (),
    allow_reuse: Annotated[bool, _label("Reuse an earlier result")] = True,
    config: Annotated[
        ParallelRunConfig | PathLike | Mapping[str, Any], ShownAs(Settings | SettingsFile), _label("Configuration")
    ],
) -> ParallelRunResult:
    """Run one ParallelRunStep and return its result.

    Args:
        name: Of the step, as the log, the run directory and the artifacts show it; letters, digits, blanks, "_", "." and "-".
        inputs: What the script is run over, files or tables; one after another, all of one kind. Where one has to be written
            as JSON, it is such as {"files": ["data/*.png"]}.
        output: Folder or URL for the result and the run directory; required for append_row.
        arguments: For the script, as on a command line, one per entry; the first starts with a dash. {output}, {inputs.NAME}
            and {side_inputs.NAME} are replaced by paths.
        side_inputs: Files or folders, such as a model, that every process can reach; they are not split.
        allow_reuse: Return the result of an earlier run when script, arguments, inputs and configuration are the same and the
            output is still there unaltered; nothing runs then.
        config: How to run: settings, or a YAML file with them.

    Raises:
        ValueError: A parameter is wrong; the error says which, and what is accepted.
    """
    given = [inputs] if isinstance(inputs, Mapping | str) or not isinstance(inputs, Sequence) else inputs
    step = ParallelRunStep(
        name,
        configuration(config),
        inputs=[dataset(place, value) for place, value in enumerate(given)],
        output=output or None,
        side_inputs=_side_inputs(side_inputs) or None,
        arguments=list(arguments),
        allow_reuse=allow_reuse,
    )
    return step()
