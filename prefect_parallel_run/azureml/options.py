"""The options that Azure's driver takes from a step's arguments: which mean something here, and what is said of the rest. Pure.

Azure's ParallelRunStep refuses the names of its configuration's fields among the arguments, and so do we (inputs.py); the
options below it accepts, and the script sees them too. A parallel job (v2) accepts both in its ``program_arguments``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from prefect_parallel_run.azureml.findings import Difference, MigrationFindings


class Translation(NamedTuple):
    """Fields of a ParallelRunConfig, and what became of what they were read from."""

    fields: dict[str, Any]
    differences: list[Difference]


@dataclass(frozen=True, slots=True)
class _Option:
    """An option of Azure's driver."""

    read: Callable[[str], Any]  #: its value; raises ValueError
    accepted: str
    why: str = ""  #: what is different here; empty: it is honoured
    asks: Callable[[Any], bool] = lambda _: True  #: False for a value that asks for nothing
    is_switch: bool = False  #: may stand without a value, which is True then


_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _truth(text: str) -> bool:
    return _TRUTHS[text.lower()]


def _is_truth(text: str) -> bool:
    return text.lower() in _TRUTHS


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


def _count(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if value < least:
            raise ValueError(text)
        return value

    return read


def _percent(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise ValueError(text)
    return value


_SECONDS = "seconds"
_NO_METRICS = "no metrics are sent to Azure; Prefect's artifacts have the counts"
_TRUTH = "True or False"
_LIMIT = "a whole number, -1 or more"
_RUNTIME = {
    "append_row_dataframe_header": _Option(_truth, _TRUTH),
    "first_task_creation_timeout": _Option(
        _seconds, _SECONDS, "listing the inputs has no time limit here; node_start_timeout bounds the wait for nodes"
    ),
    "progress_update_timeout": _Option(
        _seconds, _SECONDS, "every call of run() has its own limit here, run_invocation_timeout, and every start init_timeout"
    ),
    "task_overhead_timeout": _Option(
        _seconds, _SECONDS, "reading a mini-batch's rows may take as long as run() here: run_invocation_timeout"
    ),
    "resource_monitor_interval": _Option(_seconds, _SECONDS, "resources are sampled at intervals of our own"),
    "copy_logs_to_parent": _Option(_truth, _TRUTH, "logs lie in the run directory; there is no parent run", bool),
    "rank_mini_batch_count": _Option(
        int,
        "a whole number",
        "there are no mini-batches without input here: the inputs are processed; pass as many small files as input instead",
        lambda count: count > 0,
    ),
    "metrics_name_prefix": _Option(str, "a text", _NO_METRICS),
    "push_metrics_to_parent": _Option(_truth, _TRUTH, _NO_METRICS, bool),
    "amlbi_async_mode": _Option(
        _truth,
        _TRUTH,
        "a process runs one mini-batch at a time here; process_count_per_node says how many run at once on a node",
        bool,
        is_switch=True,
    ),
    "amlbi_dataframe_mixed_types": _Option(
        _truth, _TRUTH, "a column has one type here; the dataset's column_types gives it another one", bool, is_switch=True
    ),
    "append_row_safe_output": _Option(
        _truth, _TRUTH, "the output has only rows of tries that succeeded here, each once, always", bool, is_switch=True
    ),
}
_RUNTIME["resource_monitor_interva"] = _RUNTIME["resource_monitor_interval"]  # so in Azure's examples, and Azure takes it
_LIMITS: dict[str, _Option] = {
    "error_threshold": _Option(_count(-1), _LIMIT),
    "allowed_failed_count": _Option(_count(-1), _LIMIT),
    "allowed_failed_percent": _Option(_percent, "a number from 0 to 100"),
    "run_invocation_timeout": _Option(_seconds, _SECONDS),
    "run_max_try": _Option(_count(1), "a whole number, 1 or more"),
    "process_count_per_node": _Option(_count(1), "a whole number, 1 or more"),
    "logging_level": _Option(str, "a level"),
    "mini_batch_size": _Option(str, "a size"),
    "append_row_file_name": _Option(str, "a file name"),
}
_FIELD = {"append_row_dataframe_header": "append_row_header"}


def runtime_options(arguments: Sequence[str]) -> Translation:
    """Return what Azure's options among a step's *arguments* mean; the script sees the arguments as they are.

    >>> runtime_options(["--append_row_dataframe_header", "True"]).fields
    {'append_row_header': True}

    Raises:
        ValueError: An option has no value, or a wrong one.
    """
    return _translate(_RUNTIME, arguments)[0]


def job_options(arguments: Sequence[str]) -> tuple[Translation, list[str]]:
    """Return the same for the arguments of a parallel job, where limits stand too, and the arguments that are the script's.

    >>> translation, rest = job_options(["--error_threshold", "5", "--model", "m"])
    >>> translation.fields, rest
    ({'error_threshold': 5}, ['--model', 'm'])

    Raises:
        ValueError: As above.
    """
    return _translate({**_RUNTIME, **_LIMITS}, arguments)


def _translate(options: dict[str, _Option], arguments: Sequence[str]) -> tuple[Translation, list[str]]:
    given: dict[str, str] = {}
    rest: list[str] = []
    words = deque(arguments)
    while words:
        text = words.popleft()
        name, equals, value = text.removeprefix("--").partition("=")
        if not text.startswith("--") or name not in options:
            rest.append(text)
            continue
        if options[name].is_switch and not equals and not (words and _is_truth(words[0])):
            given[name] = "True"
            continue
        found = value if equals else words.popleft() if words else None
        if found is None or (not equals and found.startswith("--")):
            raise ValueError(f"arguments: --{name} has no value; accepted: {options[name].accepted}")
        given[name] = found  # the last one counts, as in argparse
    fields: dict[str, Any] = {}
    findings = MigrationFindings()
    for name, text in given.items():
        option = options[name]
        try:
            value = option.read(text)
        except (ValueError, KeyError):
            raise ValueError(f"arguments: --{name} is {text!r}; accepted: {option.accepted}") from None
        if not option.why:
            fields[_FIELD.get(name, name)] = value
            findings.taken(f"--{name}", text, f"{_FIELD.get(name, name)}={value!r}")
        elif option.asks(value):
            findings.left(f"--{name}", text, option.why)
    return Translation(fields, findings.found), rest
