"""Ready-made flows: one ParallelRunStep, ready to deploy; their parameters make a form in Prefect's UI.

One flow takes the configuration as fields, the other as a YAML file. If one parameter accepted both, Prefect's error for
a wrong field would only say that the value matches neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Annotated, Any

from prefect import Flow
from prefect.runtime import flow_run
from pydantic import Field

from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.datasets.base import Dataset, PathLike
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.step import ParallelRunStep
from prefect_parallel_run.task.forms import Input, Settings, ShownAs, SideInput, configuration, dataset, side_inputs_by_name
from prefect_parallel_run.task.temporary_server import explains_start_timeout

_GENERATED_NAME = re.compile("[a-z]+-[a-z]+", re.IGNORECASE)  # two words, such as copper-bison, generated for every run
_Input = PathLike | Dataset | ParallelRunResult | Input | Mapping[str, Any]


def _field(title: str, description: str, **rules: Any) -> Any:
    """Return label, help text and rules of a parameter; without a label Prefect shows the parameter's name."""
    return Field(json_schema_extra={"title": title, "description": description}, **rules)


_Name = Annotated[
    str,
    _field(
        "Step name",
        "Name in the log, the run directory and the artifacts; letters, digits, blanks, '_', '.' and '-'.",
        pattern="^[A-Za-z0-9][A-Za-z0-9 _.-]{0,99}$",
    ),
]
_Inputs = Annotated[
    _Input | Sequence[_Input],
    ShownAs(list[Input]),
    _field(
        "Inputs",
        "Files or tables to process, in this order, all of one kind. Written as JSON, an input looks like"
        ' {"files": ["data/*.png"]}.',
        min_length=1,
    ),
]
_Output = Annotated[
    PathLike | ParallelRunResult | None,
    ShownAs(str),
    _field("Output", "Folder or URL for the result and the run directory; required for append_row."),
]
_Arguments = Annotated[
    Sequence[Any],
    ShownAs(list[str]),
    _field(
        "Arguments",
        "Arguments of the script, as on a command line, one per entry; the first must start with a dash. {output},"
        " {inputs.NAME} and {side_inputs.NAME} are replaced by paths.",
    ),
]
_SideInputs = Annotated[
    Mapping[str, Any] | Sequence[SideInput | Mapping[str, str]],
    ShownAs(list[SideInput]),
    _field("Side inputs", "Files or folders, such as a model, that every process can reach; they are not split."),
]
_AllowReuse = Annotated[
    bool,
    _field(
        "Reuse an earlier result",
        "Return the result of an earlier run, without running anything, if script, arguments, inputs and configuration are the"
        " same and the output is unchanged.",
    ),
]
_Config = Annotated[
    ParallelRunConfig | PathLike | Mapping[str, Any],
    ShownAs(Settings),
    _field("Configuration", "How to run; the field names are those of Azure ML's ParallelRunConfig."),
]
_ConfigFile = Annotated[
    PathLike,
    ShownAs(str),
    _field(
        "Configuration file",
        "Path of a YAML file that save_to_yaml of this package or of Azure ML wrote, on the machine where the flow runs.",
        min_length=1,
    ),
]


def _run_name() -> str:
    """Return a readable name of the flow run: the step's name, then the user's name for the run or its scheduled time."""
    step, name = str(flow_run.parameters.get("name", "parallel run")), str(flow_run.name or "")
    return run_name(step, name, flow_run.scheduled_start_time or datetime.now(timezone.utc))


def run_name(step: str, name: str, due: datetime) -> str:
    """Return the name of a flow run; unchanged if it already has this form.

    >>> due = datetime(2026, 1, 31, 6, 0, tzinfo=timezone.utc)
    >>> run_name("score", "copper-bison", due), run_name("score", "January again", due), run_name("score", "score: x", due)
    ('score: 2026-01-31 06:00 UTC', 'score: January again', 'score: x')
    """
    if name.startswith(f"{step}: "):
        return name
    is_generated = not name or _GENERATED_NAME.fullmatch(name) is not None
    return f"{step}: {due.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC" if is_generated else f"{step}: {name}"


class _ReadyMadeFlow(Flow[..., ParallelRunResult]):
    """A flow whose error says what to do when Prefect's temporary server does not start."""

    __call__ = explains_start_timeout(Flow.__call__)


def _ready_made(name: str, description: str) -> Callable[[Callable[..., ParallelRunResult]], _ReadyMadeFlow]:
    def decorate(function: Callable[..., ParallelRunResult]) -> _ReadyMadeFlow:
        return _ReadyMadeFlow(
            function,
            name=name,
            description=description,
            flow_run_name=_run_name,
            validate_parameters=False,  # models are built here: Prefect's error would log all parameters, secrets included
            persist_result=True,
            result_serializer="json",
        )

    return decorate


@_ready_made("parallel-run", "Runs a script over files or tables, in parallel: one ParallelRunStep.")
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
    """Run one ParallelRunStep and return its result, which Prefect stores as JSON with the flow run.

    Parameters are those of a ParallelRunStep, or the JSON that the form sends.

    Raises:
        ValueError: A parameter is invalid; the error names it and says what is expected.
    """
    return _run(name, config, inputs, output, arguments, side_inputs, allow_reuse=allow_reuse)


@_ready_made(
    "parallel-run-from-yaml", "Runs a script over files or tables, in parallel, configured by a YAML file: one ParallelRunStep."
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
    """Run ``parallel_run`` with the configuration in a YAML file.

    Raises:
        ValueError: A parameter or a line of the file is invalid; the error names it and says what is expected.
    """
    return _run(name, config_file, inputs, output, arguments, side_inputs, allow_reuse=allow_reuse)


def _run(
    name: str,
    config: Any,
    inputs: _Input | Sequence[_Input],
    output: Any,
    arguments: Sequence[Any],
    side_inputs: Any,
    *,
    allow_reuse: bool,
) -> ParallelRunResult:
    values = [inputs] if isinstance(inputs, Mapping | str) or not isinstance(inputs, Sequence) else inputs
    step = ParallelRunStep(
        name,
        configuration(config),
        inputs=[dataset(index, value) for index, value in enumerate(values)],
        output=output or None,
        side_inputs=side_inputs_by_name(side_inputs) or None,
        arguments=list(arguments),
        allow_reuse=allow_reuse,
    )
    return step()
