"""The fingerprint of a run: script, arguments, inputs, and the configuration fields that shape the result."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.where import Environment
from prefect_parallel_run.environments import environment_plan
from prefect_parallel_run.errors import PrefectHomeError
from prefect_parallel_run.planning.plan import PlanSummary
from prefect_parallel_run.runs.source_files import SourceTree
from prefect_parallel_run.runs.spec import StepSpec
from prefect_parallel_run.storage.listing import Listing
from prefect_parallel_run.storage.remote_listing import find_object

_RESULT_FIELDS = (
    "entry_script",
    "output_action",
    "environment",
    "mini_batch_size",
    "append_row_file_name",
    "append_row_format",
    "append_row_header",
    "partition_keys",
    "append_row_csv_options",
)
_IGNORED_DEFAULTS = {"append_row_csv_options": None}  #: values that do not count: earlier versions lacked these fields
_NEWER_DEFAULTS = (("column_types", None), ("na_values", None), ("keep_default_na", True))  #: the same for a dataset


def run_fingerprint(
    config: ParallelRunConfig,
    *,
    inputs: list[dict[str, Any]],
    arguments: list[str],
    side_inputs: dict[str, str],
    key: bytes,
) -> dict[str, Any]:
    """Return the current fingerprint, excluding input contents; reads the source folder once.

    Args:
        config: The step's configuration; node counts, timeouts, limits and log level do not count.
        inputs: Datasets as plain values; ``with_plan`` adds hashes of their contents.
        arguments: Arguments of the script.
        side_inputs: Path by name; size and time of the files there count.
        key: Secret of this machine; environment variables count as a hash under it.

    Returns:
        ``identity`` (comparable parts), and the values behind them, to name differences: ``code`` (SHA-256 by file),
        ``shaping`` (the configuration's fields) and ``key_id`` (identifies the machine's key).
    """
    fields, code = result_fields(config), code_files(config)
    variables = config.environment_variables
    text = json.dumps(variables, sort_keys=True)
    parts = {
        "config_sha256": digest(fields),
        "script_sha256": _script_sha256(code),
        "inputs": inputs,
        "arguments": arguments,
        "side_inputs": {name: _file_version(path) for name, path in side_inputs.items()},
        "environment_variables": hmac.new(key, text.encode(), "sha256").hexdigest() if variables else "",
    }
    if config.models:  # without models, the fingerprint equals that of earlier versions
        parts["models"] = {name: _file_version(path) for name, path in config.models.items()}
    return {"identity": parts, "code": code, "shaping": fields, "key_id": hashlib.sha256(key).hexdigest()[:12]}


def fingerprint_of(spec: StepSpec) -> dict[str, Any]:
    """Return the fingerprint of *spec* without the contents of its inputs."""
    return run_fingerprint(
        spec.config,
        inputs=[dataset_fingerprint(fields) for fields in spec.inputs],
        arguments=list(spec.parameters.arguments),
        side_inputs=dict(spec.parameters.side_inputs),
        key=machine_key(spec.home),
    )


def dataset_fingerprint(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a dataset that affect its items, without the defaults of fields that earlier versions lacked."""
    return {key: value for key, value in fields.items() if key != "allow_empty" and (key, value) not in _NEWER_DEFAULTS}


def with_plan(fingerprint: dict[str, Any], summary: PlanSummary) -> dict[str, Any]:
    """Return the result of ``run_fingerprint`` with hashes of the inputs' contents and of the plan."""
    hashes = {"inputs_sha256": summary.inputs_sha256, "plan_sha256": summary.sha256}
    return {**fingerprint, "identity": {**fingerprint["identity"], **hashes}}


def result_fields(config: ParallelRunConfig) -> dict[str, Any]:
    """Return the fields of *config* that shape the result: the script as a path in the source folder, a conda file as a hash.

    Raises:
        EnvironmentSetupError: The conda file cannot be read.
    """
    fields = config.model_dump(mode="json", include=set(_RESULT_FIELDS))
    fields = {
        name: value for name, value in fields.items() if name not in _IGNORED_DEFAULTS or value != _IGNORED_DEFAULTS[name]
    }
    fields["isolate_failed_items"] = False  # may be turned on at any time; earlier versions included it, mostly with this value
    if isinstance(config.environment, Environment) and config.environment.conda_file is not None:
        fields["environment"]["conda_file"] = f"sha256 {_sha256(environment_plan(config.environment).conda)}"
    return {**fields, "entry_script": str(config.script_path.relative_to(config.source_path))}


def digest(parts: dict[str, Any]) -> str:
    """Return a hash of all parts."""
    return _sha256(json.dumps(parts, sort_keys=True))


def _script_sha256(code: dict[str, str]) -> str:
    total = hashlib.sha256()
    for name, sha256 in code.items():
        total.update(f"{name}\0{sha256}\0".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def code_files(config: ParallelRunConfig) -> dict[str, str]:
    """Return the SHA-256 of every file of the script's code, by path, sorted.

    Links to files are followed. The script itself is included even if ignore rules exclude it.
    """
    tree = source_tree(config)
    paths = {file.name: Path(file.path) for file in tree.files()}
    paths.setdefault(tree.script.relative_to(tree.top).as_posix(), tree.script)
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(paths.items()) if path.is_file()}


def source_tree(config: ParallelRunConfig) -> SourceTree:
    """Return the tree that holds the script's code."""
    return SourceTree(config.source_path, config.script_path, config.source_directory is not None)


def machine_key(home: Path) -> bytes:
    """Return this machine's secret key, created on first use; readable only by its owner.

    Raises:
        PrefectHomeError: The key can be neither read nor created.
    """
    path = home / "prefect_parallel_run.key"
    try:
        home.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_bytes()
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        return path.read_bytes()
    except OSError as error:
        raise PrefectHomeError(str(home), f"{path.name}: {error.strerror}") from error


def listing_sha256(folder: str) -> str:
    """Return a hash of path, size and version of every file in *folder* (or below a URL), except in run directories."""
    return Listing([folder]).exhaust()


def _file_version(path: str) -> list[Any]:
    """Return path, size and version of a file; for a folder, its path and a hash of those of all files in it."""
    if is_remote(path) and (file := find_object(path)) is not None:
        return list(file)
    if is_remote(path) or Path(path).is_dir():
        return [path, listing_sha256(path)]
    return list(next(iter(Listing([path]))))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
