"""Validates and resolves the inputs, side inputs, output and arguments that users pass."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect_parallel_run.child.rows import row_format
from prefect_parallel_run.child.storage import is_remote, store_of
from prefect_parallel_run.datasets.base import Dataset, given_paths
from prefect_parallel_run.datasets.files import FileDataset
from prefect_parallel_run.errors import InputError, OutputError
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.storage.listing import Listing
from prefect_parallel_run.storage.objects import wrap_store_errors
from prefect_parallel_run.storage.paths import absolute_location

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
    """Return a dataset of the output of another step if *value* is its result, else *value* itself."""
    if not isinstance(value, ParallelRunResult):
        return value
    path = value.place
    if path is None:
        raise InputError(value.name, "this step has no output to read; set output in that step")
    table_format = row_format(value.output_format).table_format if value.output_format is not None else ""
    if not table_format:
        return FileDataset.from_files([path], allow_empty=True)
    from prefect_parallel_run.datasets.tabular import TabularDataset  # noqa: PLC0415  imports pandas, which a file step does not need

    return TabularDataset.model_validate({"paths": given_paths([path]), "format": table_format, "allow_empty": True})


def normalize_inputs(inputs: Iterable[Any]) -> list[Dataset]:
    """Return *inputs* as named, frozen datasets of one kind; a plain path, folder or glob becomes a FileDataset.

    Inputs without a name are called ``input_0``, ``input_1``, … by their position.

    Raises:
        InputError: An input is missing, the kinds differ, or two inputs have the same name.
    """
    datasets: list[Dataset] = []
    for number, value in enumerate(inputs):
        if value is None:
            raise InputError("None", "no input was passed; pass inputs=…")
        if not isinstance(value, Dataset | str | os.PathLike):
            raise InputError(repr(value)[:200], "is not an input; pass a FileDataset, a TabularDataset or a path")
        dataset = value if isinstance(value, Dataset) else FileDataset.from_files(value)
        dataset = dataset if dataset.name is not None else dataset.as_named_input(f"input_{number}")
        datasets.append(dataset.frozen())
    if not datasets:
        raise InputError("[]", "no input was passed; pass inputs=…")
    kinds = {dataset.kind for dataset in datasets}
    if len(kinds) > 1:
        inputs_by_kind = ", ".join(f"{dataset.name}: {dataset.kind}" for dataset in datasets)
        raise InputError(inputs_by_kind, "the inputs of a step must be of one kind, files or tables")
    names = [str(dataset.name) for dataset in datasets]
    for name in names:
        if names.count(name) > 1:
            raise InputError(name, "two inputs have this name; names must be unique among inputs and side inputs")
    return datasets


def output_location(output: Any) -> str | None:
    """Return the output as an absolute path or URL, without reading anything; None for no output."""
    if isinstance(output, ParallelRunResult):
        output = output.output
    if output is None:
        return None
    try:
        path = absolute_location(output)
    except InputError as error:
        raise OutputError(error.path, error.reason) from None
    return path.rstrip("/") if is_remote(path) else path


def resolve_output(output: Any, *, required: bool) -> str | None:
    """Return the output as an absolute path or URL; the run creates it."""
    path = output_location(output)
    if path is None:
        if required:
            raise OutputError("None", "append_row needs an output folder; pass output=…")
        return None
    if is_remote(path):
        with wrap_store_errors(path, "reached"):
            store_of(path)
    elif Path(path).exists() and not Path(path).is_dir():
        raise OutputError(path, "is a file; pass the folder that the result should be written to")
    return path


def resolve_side_inputs(side_inputs: Any, input_names: Sequence[str]) -> dict[str, str]:
    """Return the path of every side input by name; names must differ from *input_names*.

    Side inputs are a mapping of names to paths (or datasets, or results), or a list of named datasets.
    """
    if side_inputs is None:
        return {}
    if isinstance(side_inputs, Mapping):
        pairs = list(side_inputs.items())
    else:
        pairs = [(getattr(value, "name", None), value) for value in side_inputs]
    paths: dict[str, str] = {}
    for name, value in pairs:
        if not isinstance(name, str) or not name.isidentifier():
            raise InputError(str(name), "a side input needs a name: pass {'name': path} or dataset.as_named_input('name')")
        if name in paths or name in input_names:
            raise InputError(name, "two inputs have this name; names must be unique among inputs and side inputs")
        path = _common_path(from_result(value))
        exists = any(True for _ in Listing([path])) if is_remote(path) else Path(path).exists()
        if not exists:
            raise InputError(path, f"side input {name} does not exist")
        paths[name] = path
    return paths


def check_models(models: Mapping[str, str]) -> None:
    """Raise InputError for a model that does not exist."""
    for name, path in models.items():
        if not Path(path).exists():
            raise InputError(path, f"model {name} does not exist")


def check_arguments(arguments: Any) -> tuple[str, ...]:
    """Return *arguments* as strings, in order; raises ValueError for arguments that cannot be passed to the script."""
    if isinstance(arguments, str):
        raise ValueError(f"arguments: expected a list with one element per argument, got {arguments!r}")  # noqa: TRY004  a wrong value
    strings = tuple(str(argument) for argument in arguments or ())
    if strings and not strings[0].startswith("-"):
        raise ValueError(f"arguments: expected an option that starts with '-' as the first, got {strings[0]!r}")
    for string in strings:
        option = string.partition("=")[0]
        if option in _OWN_OPTIONS:
            raise ValueError(f"arguments: {option} is an option of ParallelRunConfig; set {option[2:]} there")
    return strings


def fill_placeholders(
    arguments: Sequence[str], output: str | None, datasets: Sequence[Dataset], side_inputs: Mapping[str, str]
) -> tuple[str, ...]:
    """Return *arguments* with {output}, {inputs.NAME} and {side_inputs.NAME} replaced by paths."""
    values = {f"side_inputs.{name}": path for name, path in side_inputs.items()}
    values |= {f"inputs.{dataset.name}": _common_path(dataset) for dataset in datasets if dataset.paths}
    if output is not None:
        values["output"] = output

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            known = ", ".join(f"{{{name}}}" for name in sorted(values)) or "none"
            raise ValueError(f"arguments: unknown placeholder {match[0]}; expected one of: {known}")
        return values[match[1]]

    return tuple(_PLACEHOLDER.sub(value, argument) for argument in arguments)


def _common_path(value: Any) -> str:
    """Return one path or URL for a dataset (its paths' common folder), or for a path."""
    paths = [absolute_location(path) for path in ([value] if isinstance(value, str | os.PathLike) else value.paths)]
    paths = [path.rstrip("/") or "/" for path in paths]
    if not paths:
        raise InputError(value.origin, "is a query, which has no path; pass a file or a folder")
    if len(paths) == 1:
        return paths[0]
    shared = os.path.commonprefix([f"{path}/" for path in paths])  # noqa: RUF071  the next line cuts it at a slash
    return shared.rpartition("/")[0] or "/"
