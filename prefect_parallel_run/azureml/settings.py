"""The settings file and the driver options of Azure's users, applied to a configuration.

parallel_run_step.settings.json in the source folder, ``{"append_row": {"pandas.DataFrame.to_csv": {"sep": ","}}}``, names
keywords of pandas.DataFrame.to_csv. Azure's ParallelRunStep rejects its configuration's field names among the arguments, and so
does this package; it accepts the options below, and the script sees them too. A parallel job (v2) accepts both.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run.azureml.findings import Difference, MigrationFindings
from prefect_parallel_run.child.rows import row_format
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.validation import KEYWORDS, check_keywords

SETTINGS_FILE = "parallel_run_step.settings.json"
_FUNCTION = "pandas.DataFrame.to_csv"
_MAX_BYTES = 1 << 20
#: Values of keywords that match the behavior here anyway.
_SAME: dict[str, tuple[Any, ...]] = {
    "mode": ("a", "w"),
    "lineterminator": (None, "\n"),
    "line_terminator": (None, "\n"),
    "compression": (None,),
}
_WHY = "rows are combined in one file, in order: expected one of " + ", ".join(KEYWORDS)


class Translation(NamedTuple):
    """Fields of a ParallelRunConfig, and the differences of their sources."""

    fields: dict[str, Any]
    differences: list[Difference]


@dataclass(frozen=True, slots=True)
class _Option:
    read: Callable[[str], Any]  #: parses the value; raises ValueError
    expected: str
    why: str = ""  #: why it has no effect; empty: it has its effect
    has_effect: Callable[[Any], bool] = lambda _: True  #: False for a value that would have no effect in Azure either
    is_switch: bool = False  #: may omit its value, which then is True
    field: str = ""  #: field here, if its name differs


_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError(text)
    return _BOOLEANS[text.lower()]


def _within(kind: type[int] | type[float], minimum: float, maximum: float = 1e300) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = kind(text)
        if not minimum <= value <= maximum:
            raise ValueError(text)
        return value

    return read


def _switch(why: str, *, is_switch: bool = True) -> _Option:
    """Return an option without effect here, and none in Azure if it is false."""
    return _Option(_boolean, _BOOLEAN, why, bool, is_switch)


def _duration(why: str = "") -> _Option:
    return _Option(_within(float, 0), "seconds", why)


_BOOLEAN = "True or False"
_NO_METRICS = "metrics are not sent to Azure; see Prefect's artifacts for the counts"
_INTERVAL = _duration("the sampling interval of resources is fixed here")
_RUNTIME = {
    "append_row_dataframe_header": _Option(_boolean, _BOOLEAN, field="append_row_header"),
    "first_task_creation_timeout": _duration(
        "listing the inputs has no time limit here; node_start_timeout limits the wait for nodes"
    ),
    "progress_update_timeout": _duration(
        "run_invocation_timeout limits each call of run() here, and init_timeout each start of a process"
    ),
    "task_overhead_timeout": _duration("run_invocation_timeout also limits reading a mini-batch's rows here"),
    "resource_monitor_interval": _INTERVAL,
    "resource_monitor_interva": _INTERVAL,  # a typing error in Azure's examples that Azure accepts
    "copy_logs_to_parent": _switch("logs are in the run directory; a run has no parent run", is_switch=False),
    "rank_mini_batch_count": _Option(
        int,
        "an integer",
        "mini-batches without input are not supported: the inputs are processed; pass that many small files as input instead",
        lambda count: count > 0,
    ),
    "metrics_name_prefix": _Option(str, "a string", _NO_METRICS),
    "push_metrics_to_parent": _switch(_NO_METRICS, is_switch=False),
    "amlbi_async_mode": _switch(
        "a process runs one mini-batch at a time here; process_count_per_node sets how many run at the same time on a node"
    ),
    "amlbi_dataframe_mixed_types": _switch("a column has one type here; the dataset's column_types can change it"),
    "append_row_safe_output": _switch("the output always contains only the rows of successful attempts, each once"),
}
_LIMIT = _Option(_within(int, -1), "an integer, -1 or more")
_COUNT = _Option(_within(int, 1), "an integer, 1 or more")
_FIELDS = {
    "error_threshold": _LIMIT,
    "allowed_failed_count": _LIMIT,
    "allowed_failed_percent": _Option(_within(float, 0, 100), "a number from 0 to 100"),
    "run_invocation_timeout": _duration(),
    "run_max_try": _COUNT,
    "process_count_per_node": _COUNT,
    "logging_level": _Option(str, "a level"),
    "mini_batch_size": _Option(str, "a size"),
    "append_row_file_name": _Option(str, "a file name"),
}


def apply_azure_settings(config: ParallelRunConfig, arguments: Sequence[str]) -> tuple[ParallelRunConfig, list[str]]:
    """Return *config* with the settings file and driver options of Azure applied, and a warning for each ignored value.

    The arguments do not change: in Azure the script sees these options too. They take precedence over the settings file.

    Raises:
        ValueError: A value is invalid, or the settings file cannot be read.
    """
    from_file, from_arguments = source_settings(config), runtime_options(arguments)
    fields = {**from_file.fields, **from_arguments.fields}
    warnings = [str(difference) for difference in [*from_file.differences, *from_arguments.differences] if difference.why]
    return config.model_copy(update=fields) if fields else config, warnings


def source_settings(config: ParallelRunConfig) -> Translation:
    """Return the settings in the file beside the entry script; empty if there is no file, or no rows are written.

    The configuration's own fields take precedence over the file.

    Raises:
        ValueError: The file is not a JSON file of that shape, or a keyword has an invalid value.
    """
    path = config.source_path / SETTINGS_FILE
    if config.result_file_name is None or not path.is_file():
        return Translation({}, [])
    findings = MigrationFindings()
    keywords = _keywords(_read(path), findings)
    if keywords and not row_format(config.result_format).has_csv_options:
        findings.left_out(f"append_row.{_FUNCTION}", json.dumps(keywords), f"rows are written as {config.result_format}")
        return Translation({}, findings.differences)
    fields: dict[str, Any] = {}
    if "header" in keywords:
        _header(keywords["header"], config, fields, findings)
        if not isinstance(keywords["header"], list):
            del keywords["header"]
    own = config.append_row_csv_options or {}
    options = _new_keywords(keywords, own, findings)
    if options:
        fields["append_row_csv_options"] = check_keywords({**options, **own}, f"{path}: {_FUNCTION}")
    return Translation(fields, findings.differences)


def _new_keywords(keywords: Mapping[str, Any], own: Mapping[str, Any], findings: MigrationFindings) -> dict[str, Any]:
    """Return the keywords that apply here and that the configuration's *own* ones do not override."""
    options = {}
    for name, value in keywords.items():
        where, text = f"{_FUNCTION} {name}", json.dumps(value)
        if name in own:
            if own[name] != value:
                findings.left_out(where, text, f"append_row_csv_options={{{name!r}: {own[name]!r}}} takes precedence")
        elif name in KEYWORDS and value is not None:
            options[name] = value
            findings.taken(where, text, f"append_row_csv_options={{{name!r}: {value!r}}}")
        elif value is not None and value not in _SAME.get(name, ()):
            findings.left_out(where, text, _WHY)
    return options


def _header(value: Any, config: ParallelRunConfig, fields: dict[str, Any], findings: MigrationFindings) -> None:
    """Set whether there is a header line; a list of names requires one."""
    where, text = f"{_FUNCTION} header", json.dumps(value)
    if not isinstance(value, bool | list):
        findings.left_out(where, text, "expected true, false or a list of names")
        return
    has_header = value is not False
    if "append_row_header" in config.model_fields_set and config.append_row_header != has_header:
        findings.left_out(where, text, f"append_row_header={config.append_row_header} takes precedence")
    elif row_format(config.result_format).always_has_header and not has_header:
        findings.left_out(where, text, f"append_row_format={config.result_format!r} always has a header line")
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
        raise ValueError(f"{SETTINGS_FILE}: append_row is {append_row!r}; expected {{{_FUNCTION!r}: {{keyword: value}}}}")
    for name, value in append_row.items():
        if name != _FUNCTION:
            findings.left_out(f"append_row.{name}", json.dumps(value), f"only {_FUNCTION} is supported")
    return dict(append_row.get(_FUNCTION) or {})


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
    return _translate({**_RUNTIME, **_FIELDS}, arguments)


def _translate(options: Mapping[str, _Option], arguments: Sequence[str]) -> tuple[Translation, list[str]]:
    values, rest = _parse(options, arguments)
    fields: dict[str, Any] = {}
    findings = MigrationFindings()
    for name, text in values.items():
        option = options[name]
        try:
            value = option.read(text)
        except ValueError:
            raise ValueError(f"arguments: --{name} is {text!r}; expected {option.expected}") from None
        if not option.why:
            fields[option.field or name] = value
            findings.taken(f"--{name}", text, f"{option.field or name}={value!r}")
        elif option.has_effect(value):
            findings.left_out(f"--{name}", text, option.why)
    return Translation(fields, findings.differences), rest


def _parse(options: Mapping[str, _Option], arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    values: dict[str, str] = {}
    rest: list[str] = []
    queue = deque(arguments)
    while queue:
        argument = queue.popleft()
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in options:
            rest.append(argument)
            continue
        if options[name].is_switch and not equals and not (queue and queue[0].lower() in _BOOLEANS):
            text = "True"
        elif not equals and (not queue or (text := queue.popleft()).startswith("--")):
            raise ValueError(f"arguments: --{name} lacks its value; expected {options[name].expected}")
        values[name] = text  # the last one takes precedence, as in argparse
    return values, rest
