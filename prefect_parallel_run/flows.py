"""The ready-made flows: one ParallelRunStep, deployable as it is; their parameters make a form in Prefect's UI.

One takes the configuration as fields, the other as a YAML file: as one parameter with two choices, Prefect could only say
of a wrong field that the configuration as a whole is neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.datasets.base import Dataset, PathLike
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.step import ParallelRunStep
from prefect_parallel_run.task.forms import Input, Settings, ShownAs, SideInput, configuration, dataset, side_inputs_by_name

_PREFECT_S_OWN_NAME = re.compile("[a-z]+-[a-z]+", re.IGNORECASE)  # two words, such as copper-bison, made up for every run
_Input = PathLike | Dataset | ParallelRunResult | Input | Mapping[str, Any]


def _shown(title: str, description: str, **rules: Any) -> Any:
    """Return label, help text and rules of a parameter; Prefect would take its name for a label."""
    return Field(json_schema_extra={"title": title, "description": description}, **rules)


_Name = Annotated[
    str,
    _shown(
        "Step name",
        "As the log, the run directory and the artifacts show it; letters, digits, blanks, '_', '.' and '-'.",
        pattern="^[A-Za-z0-9][A-Za-z0-9 _.-]{0,99}$",
    ),
]
_Inputs = Annotated[
    _Input | Sequence[_Input],
    ShownAs(list[Input]),
    _shown(
        "Inputs",
        "What the script is run over, files or tables; one after another, all of one kind. Where one has to be written as JSON,"
        ' it is such as {"files": ["data/*.png"]}.',
        min_length=1,
    ),
]
_Output = Annotated[
    PathLike | ParallelRunResult | None,
    ShownAs(str),
    _shown("Output", "Folder or URL for the result and the run directory; required for append_row."),
]
_Arguments = Annotated[
    Sequence[Any],
    ShownAs(list[str]),
    _shown(
        "Arguments",
        "For the script, as on a command line, one per entry; the first starts with a dash. {output}, {inputs.NAME} and"
        " {side_inputs.NAME} are replaced by paths.",
    ),
]
_SideInputs = Annotated[
    Mapping[str, Any] | Sequence[SideInput | Mapping[str, str]],
    ShownAs(list[SideInput]),
    _shown("Side inputs", "Files or folders, such as a model, that every process can reach; they are not split."),
]
_AllowReuse = Annotated[
    bool,
    _shown(
        "Reuse an earlier result",
        "Return the result of an earlier run when script, arguments, inputs and configuration are the same and the output is"
        " still there unaltered; nothing runs then.",
    ),
]
_Config = Annotated[
    ParallelRunConfig | PathLike | Mapping[str, Any],
    ShownAs(Settings),
    _shown("Configuration", "How to run; the names are those of Azure ML's ParallelRunConfig."),
]
_ConfigFile = Annotated[
    PathLike,
    ShownAs(str),
    _shown(
        "Configuration file",
        "Path of a YAML file that save_to_yaml wrote, ours or Azure ML's, as seen from where the flow runs.",
        min_length=1,
    ),
]


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
    name: _Name,
    inputs: _Inputs,
    output: _Output = "",
    arguments: _Arguments = (),
    side_inputs: _SideInputs = (),
    allow_reuse: _AllowReuse = True,
    config: _Config,
) -> ParallelRunResult:
    """Run one ParallelRunStep and return its result; it is kept as JSON for whoever asks the flow run for it.

    Parameters are what a ParallelRunStep takes, or what the form sends: JSON.

    Raises:
        ValueError: A parameter is wrong; the error says which, and what is accepted.
    """
    return _run(name, config, inputs, output, arguments, side_inputs, allow_reuse=allow_reuse)


@flow(
    name="parallel-run-from-yaml",
    description="Runs a script over files or tables, in parallel, as a YAML file says: one ParallelRunStep.",
    flow_run_name=_run_name,
    validate_parameters=False,
    persist_result=True,
    result_serializer="json",
)
def parallel_run_from_yaml(
    *,
    name: _Name,
    config_file: _ConfigFile,
    inputs: _Inputs,
    output: _Output = "",
    arguments: _Arguments = (),
    side_inputs: _SideInputs = (),
    allow_reuse: _AllowReuse = True,
) -> ParallelRunResult:
    """Do as ``parallel_run``, with the configuration in a YAML file.

    Raises:
        ValueError: A parameter is wrong, or a line of the file; the error says which, and what is accepted.
    """
    return _run(name, config_file, inputs, output, arguments, side_inputs, allow_reuse=allow_reuse)


def _run(
    name: str,
    config: Any,
    inputs: _Input | Sequence[_Input],
    output: Any,
    arguments: Sequence[Any],
    sides: Any,
    *,
    allow_reuse: bool,
) -> ParallelRunResult:
    several = [inputs] if isinstance(inputs, Mapping | str) or not isinstance(inputs, Sequence) else inputs
    step = ParallelRunStep(
        name,
        configuration(config),
        inputs=[dataset(place, given) for place, given in enumerate(several)],
        output=output or None,
        side_inputs=side_inputs_by_name(sides) or None,
        arguments=list(arguments),
        allow_reuse=allow_reuse,
    )
    return step()
