"""The settings file and the driver options of Azure's users, applied to a configuration."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run.azureml.findings import Difference, MigrationFindings
from prefect_parallel_run.config.csv_options import KEYWORDS, check_keywords
from prefect_parallel_run.config.model import ParallelRunConfig

FILE_NAME = "parallel_run_step.settings.json"
_FUNCTION = "pandas.DataFrame.to_csv"
_MAX_BYTES = 1 << 20
#: Values that match the behaviour here anyway.
_SAME: dict[str, tuple[Any, ...]] = {
    "mode": ("a", "w"),
    "lineterminator": (None, "\n"),
    "line_terminator": (None, "\n"),
    "compression": (None,),
}
_WHY = "rows are combined in one file, in order: expected one of " + ", ".join(KEYWORDS)
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_SECONDS = "seconds"
_NO_METRICS = "metrics are not sent to Azure; see Prefect's artifacts for the counts"
_BOOLEAN = "True or False"
_LIMIT = "an integer, -1 or more"
_FIELD = {"append_row_dataframe_header": "append_row_header"}


def source_settings(config: ParallelRunConfig) -> Translation:
    """Return the settings in the file beside the entry script; empty if there is no file, or no rows are written.

    The configuration's own fields take precedence over the file.

    Raises:
        ValueError: The file is not a JSON file of that shape, or a keyword has an invalid value.
    """
    path = config.source_path / FILE_NAME
    if config.result_file_name is None or not path.is_file():
        return Translation({}, [])
    findings = MigrationFindings()
    keywords = _keywords(_read(path), findings)
    if keywords and config.result_format in ("jsonl", "parquet"):
        findings.left_out(f"append_row.{_FUNCTION}", json.dumps(keywords), f"rows are written as {config.result_format}")
        return Translation({}, findings.differences)
    own = config.append_row_csv_options or {}
    fields: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, value in keywords.items():
        where, text = f"{_FUNCTION} {name}", json.dumps(value)
        if name == "header":
            _header(value, config, fields, findings)
        if name == "header" and not isinstance(value, list):
            continue
        if name in own:
            if own[name] != value:
                findings.left_out(where, text, f"append_row_csv_options={{{name!r}: {own[name]!r}}} takes precedence")
        elif name in KEYWORDS and value is not None:
            options[name] = value
            findings.taken(where, text, f"append_row_csv_options={{{name!r}: {value!r}}}")
        elif value is not None and value not in _SAME.get(name, ()):
            findings.left_out(where, text, _WHY)
    if options:
        fields["append_row_csv_options"] = check_keywords({**options, **own}, f"{path}: {_FUNCTION}")
    return Translation(fields, findings.differences)


def _header(value: Any, config: ParallelRunConfig, fields: dict[str, Any], findings: MigrationFindings) -> None:
    """Set whether there is a header line; a list of names requires one."""
    where, text = f"{_FUNCTION} header", json.dumps(value)
    if not isinstance(value, bool | list):
        findings.left_out(where, text, "expected true, false or a list of names")
        return
    has_header = value is not False
    if "append_row_header" in config.model_fields_set and config.append_row_header != has_header:
        findings.left_out(where, text, f"append_row_header={config.append_row_header} takes precedence")
    elif config.result_format == "csv" and not has_header:
        findings.left_out(where, text, "append_row_format='csv' always has a header line")
    else:
        fields["append_row_header"] = has_header
        findings.taken(where, text, f"append_row_header={has_header}")


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path}: the file has over {_MAX_BYTES} bytes; expected a settings file")
    try:
        settings = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # JSON's and Unicode's errors are ValueErrors
        raise ValueError(f"{path}: cannot read it as JSON: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: the file has a {type(settings).__name__}; expected an object with the key append_row")
    return settings


def _keywords(settings: dict[str, Any], findings: MigrationFindings) -> dict[str, Any]:
    """Return the keywords of to_csv; everything else is recorded as left out."""
    for name, value in settings.items():
        if name != "append_row":
            findings.left_out(name, json.dumps(value), "only append_row is supported")
    append_row = settings.get("append_row") or {}
    if not isinstance(append_row, dict) or not isinstance(append_row.get(_FUNCTION) or {}, dict):
        raise ValueError(f"{FILE_NAME}: append_row is {append_row!r}; expected {{{_FUNCTION!r}: {{keyword: value}}}}")
    for name, value in append_row.items():
        if name != _FUNCTION:
            findings.left_out(f"append_row.{name}", json.dumps(value), f"only {_FUNCTION} is supported")
    return dict(append_row.get(_FUNCTION) or {})


class Translation(NamedTuple):
    """Fields of a ParallelRunConfig, and the differences of their sources."""

    fields: dict[str, Any]
    differences: list[Difference]


@dataclass(frozen=True, slots=True)
class _Option:
    """An option of Azure's driver."""

    read: Callable[[str], Any]  #: parses the value; raises ValueError
    expected: str
    why: str = ""  #: why it has no effect; empty: it has its effect
    has_effect: Callable[[Any], bool] = lambda _: True  #: False for a value that would have no effect in Azure either
    is_switch: bool = False  #: may omit its value, which then is True


def _boolean(text: str) -> bool:
    return _BOOLEANS[text.lower()]


def _is_boolean(text: str) -> bool:
    return text.lower() in _BOOLEANS


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


def _count(minimum: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise ValueError(text)
        return value

    return read


def _percent(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise ValueError(text)
    return value


_RUNTIME = {
    "append_row_dataframe_header": _Option(_boolean, _BOOLEAN),
    "first_task_creation_timeout": _Option(
        _seconds, _SECONDS, "listing the inputs has no time limit here; node_start_timeout limits the wait for nodes"
    ),
    "progress_update_timeout": _Option(
        _seconds, _SECONDS, "run_invocation_timeout limits each call of run() here, and init_timeout each start of a process"
    ),
    "task_overhead_timeout": _Option(_seconds, _SECONDS, "run_invocation_timeout also limits reading a mini-batch's rows here"),
    "resource_monitor_interval": _Option(_seconds, _SECONDS, "the sampling interval of resources is fixed here"),
    "copy_logs_to_parent": _Option(_boolean, _BOOLEAN, "logs are in the run directory; a run has no parent run", bool),
    "rank_mini_batch_count": _Option(
        int,
        "an integer",
        "mini-batches without input are not supported: the inputs are processed; pass that many small files as input instead",
        lambda count: count > 0,
    ),
    "metrics_name_prefix": _Option(str, "a string", _NO_METRICS),
    "push_metrics_to_parent": _Option(_boolean, _BOOLEAN, _NO_METRICS, bool),
    "amlbi_async_mode": _Option(
        _boolean,
        _BOOLEAN,
        "a process runs one mini-batch at a time here; process_count_per_node sets how many run at the same time on a node",
        bool,
        is_switch=True,
    ),
    "amlbi_dataframe_mixed_types": _Option(
        _boolean, _BOOLEAN, "a column has one type here; the dataset's column_types can change it", bool, is_switch=True
    ),
    "append_row_safe_output": _Option(
        _boolean, _BOOLEAN, "the output always contains only the rows of successful attempts, each once", bool, is_switch=True
    ),
}
_RUNTIME["resource_monitor_interva"] = _RUNTIME[
    "resource_monitor_interval"
]  # a typing error in Azure's examples that Azure accepts
_LIMITS: dict[str, _Option] = {
    "error_threshold": _Option(_count(-1), _LIMIT),
    "allowed_failed_count": _Option(_count(-1), _LIMIT),
    "allowed_failed_percent": _Option(_percent, "a number from 0 to 100"),
    "run_invocation_timeout": _Option(_seconds, _SECONDS),
    "run_max_try": _Option(_count(1), "an integer, 1 or more"),
    "process_count_per_node": _Option(_count(1), "an integer, 1 or more"),
    "logging_level": _Option(str, "a level"),
    "mini_batch_size": _Option(str, "a size"),
    "append_row_file_name": _Option(str, "a file name"),
}


def runtime_options(arguments: Sequence[str]) -> Translation:
    """Translate the options of Azure's driver among a step's *arguments*; the script sees the arguments unchanged.

    >>> runtime_options(["--append_row_dataframe_header", "True"]).fields
    {'append_row_header': True}

    Raises:
        ValueError: An option lacks its value, or has an invalid one.
    """
    return _translate(_RUNTIME, arguments)[0]


def job_options(arguments: Sequence[str]) -> tuple[Translation, list[str]]:
    """Translate the options among a parallel job's arguments, limits included; also return the script's arguments.

    >>> translation, rest = job_options(["--error_threshold", "5", "--model", "m"])
    >>> translation.fields, rest
    ({'error_threshold': 5}, ['--model', 'm'])

    Raises:
        ValueError: An option lacks its value, or has an invalid one.
    """
    return _translate({**_RUNTIME, **_LIMITS}, arguments)


def _translate(options: dict[str, _Option], arguments: Sequence[str]) -> tuple[Translation, list[str]]:
    values: dict[str, str] = {}
    rest: list[str] = []
    queue = deque(arguments)
    while queue:
        argument = queue.popleft()
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in options:
            rest.append(argument)
            continue
        if options[name].is_switch and not equals and not (queue and _is_boolean(queue[0])):
            values[name] = "True"
            continue
        value_text = text if equals else queue.popleft() if queue else None
        if value_text is None or (not equals and value_text.startswith("--")):
            raise ValueError(f"arguments: --{name} lacks its value; expected {options[name].expected}")
        values[name] = value_text  # the last one takes precedence, as in argparse
    fields: dict[str, Any] = {}
    findings = MigrationFindings()
    for name, text in values.items():
        option = options[name]
        try:
            value = option.read(text)
        except (ValueError, KeyError):
            raise ValueError(f"arguments: --{name} is {text!r}; expected {option.expected}") from None
        if not option.why:
            fields[_FIELD.get(name, name)] = value
            findings.taken(f"--{name}", text, f"{_FIELD.get(name, name)}={value!r}")
        elif option.has_effect(value):
            findings.left_out(f"--{name}", text, option.why)
    return Translation(fields, findings.differences), rest


def apply_azure_settings(config: ParallelRunConfig, arguments: Sequence[str]) -> tuple[ParallelRunConfig, list[str]]:
    """Return *config* with the settings file and driver options of Azure applied, and a warning for each ignored value.

    The arguments do not change: in Azure the script sees these options too. They take precedence over the settings file.

    Raises:
        ValueError: A value is invalid, or the settings file cannot be read.
    """
    from_file, from_arguments = source_settings(config), runtime_options(arguments)
    fields: dict[str, Any] = {**from_file.fields, **from_arguments.fields}
    differences = [*from_file.differences, *from_arguments.differences]
    warnings = [str(difference) for difference in differences if difference.why]
    changed = config.model_copy(update=fields) if fields else config
    return changed, warnings
