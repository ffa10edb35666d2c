"""What a user may pass as inputs, side inputs, output and arguments, made into the values a run works with."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect_parallel_run.child.storage import is_remote, store_of
from prefect_parallel_run.datasets.base import Dataset, absolute
from prefect_parallel_run.datasets.files import FileDataset
from prefect_parallel_run.errors import InputError, OutputError
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.storage.listing import Listing
from prefect_parallel_run.storage.objects import told

_OWN_OPTIONS = frozenset(
    f"--{name}"
    for name in (
        "mini_batch_size",
        "error_threshold",
        "allowed_failed_count",
        "allowed_failed_percent",
        "output",
        "output_action",
        "logging_level",
        "process_count_per_node",
        "run_invocation_timeout",
        "run_max_try",
        "append_row_file_name",
        "partition_keys",
    )
)
_PLACEHOLDER = re.compile(r"\{(output|(?:inputs|side_inputs)\.[A-Za-z_][A-Za-z0-9_]*)\}")


def from_result(value: Any) -> Any:
    """Return another step's result as a dataset of what it has written; anything else as it is."""
    if not isinstance(value, ParallelRunResult):
        return value
    path = value.place
    if path is None:
        raise InputError(value.name, "that step has no output to read")
    if value.output_format not in ("parquet", "csv", "jsonl"):
        return FileDataset.from_files([path], allow_empty=True)
    from prefect_parallel_run.datasets.tabular import TabularDataset  # noqa: PLC0415  pandas, which a file step never needs

    if value.output_format == "parquet":
        return TabularDataset.from_parquet_files([path], allow_empty=True)
    if value.output_format == "csv":
        return TabularDataset.from_delimited_files([path], allow_empty=True)
    return TabularDataset.from_json_lines_files([path], allow_empty=True)


def resolve_output(output: Any, *, required: bool) -> str | None:
    """Return the output as an absolute path, or as a URL; it is created when the run begins."""
    if isinstance(output, ParallelRunResult):
        output = output.output
    if output is None:
        if required:
            raise OutputError("None", "append_row needs an output folder; pass output=…")
        return None
    try:
        place = absolute(output)
    except InputError as error:
        raise OutputError(error.path, error.reason) from None
    if is_remote(place):
        place = place.rstrip("/")
        with told(place, "reached"):
            store_of(place)
    elif Path(place).exists() and not Path(place).is_dir():
        raise OutputError(place, "is a file; pass the folder that the result should be written to")
    return place


def resolve_side_inputs(side_inputs: Any, taken: Sequence[str]) -> dict[str, str]:
    """Return the path of every side input by its name; *taken* are the names of the inputs.

    Side inputs are a mapping of name to path (or dataset, or result), or a list of named datasets.
    """
    if side_inputs is None:
        return {}
    if isinstance(side_inputs, Mapping):
        pairs = list(side_inputs.items())
    else:
        pairs = [(getattr(value, "name", None), value) for value in side_inputs]
    found: dict[str, str] = {}
    for name, value in pairs:
        if not isinstance(name, str) or not name.isidentifier():
            raise InputError(str(name), "a side input needs a name: pass {'name': path} or dataset.as_named_input('name')")
        if name in found or name in taken:
            raise InputError(name, "two inputs have this name; names are unique over inputs and side inputs")
        path = _place(from_result(value))
        is_there = any(True for _ in Listing([path])) if is_remote(path) else Path(path).exists()
        if not is_there:
            raise InputError(path, f"side input {name} does not exist")
        found[name] = path
    return found


def check_models(models: Mapping[str, str]) -> None:
    """Raise InputError for a model that does not exist."""
    for name, path in models.items():
        if not Path(path).exists():
            raise InputError(path, f"model {name} does not exist")


def check_arguments(arguments: Any) -> tuple[str, ...]:
    """Return *arguments* as texts, in order; raises ValueError for what the script could not be given."""
    if isinstance(arguments, str):
        raise ValueError(f"arguments is {arguments!r}; accepted: a list, one element per argument")  # noqa: TRY004  a wrong value
    texts = tuple(str(argument) for argument in arguments or ())
    if texts and not texts[0].startswith("-"):
        raise ValueError(f"arguments: the first is {texts[0]!r}; it must be an option, starting with '-'")
    for text in texts:
        option = text.partition("=")[0]
        if option in _OWN_OPTIONS:
            raise ValueError(f"arguments: {option} is an option of ParallelRunConfig; set {option[2:]} there")
    return texts


def fill_placeholders(
    arguments: Sequence[str], output: str | None, datasets: Sequence[Dataset], side_inputs: Mapping[str, str]
) -> tuple[str, ...]:
    """Return *arguments* with {output}, {inputs.NAME} and {side_inputs.NAME} replaced by paths."""
    values = {f"side_inputs.{name}": path for name, path in side_inputs.items()}
    values |= {f"inputs.{dataset.name}": _place(dataset) for dataset in datasets}
    if output is not None:
        values["output"] = output

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            known = ", ".join(f"{{{name}}}" for name in sorted(values)) or "none"
            raise ValueError(f"arguments: {match[0]} stands for nothing here; known: {known}")
        return values[match[1]]

    return tuple(_PLACEHOLDER.sub(value, argument) for argument in arguments)


def _place(value: Any) -> str:
    """Return the one path or URL that stands for a dataset, or for a path."""
    paths = [absolute(path) for path in ([value] if isinstance(value, str | os.PathLike) else value.paths)]
    paths = [path.rstrip("/") or "/" for path in paths]
    if len(paths) == 1:
        return paths[0]
    shared = os.path.commonprefix([f"{path}/" for path in paths])  # noqa: RUF071  cut at a slash
    return shared.rpartition("/")[0] or "/"
