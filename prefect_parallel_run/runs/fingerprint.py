"""What makes two runs the same run: script, arguments, inputs, and the configuration as far as it shapes the result."""

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
from prefect_parallel_run.storage.listing import Listing
from prefect_parallel_run.storage.remote_listing import look

_SHAPING = (
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
_SILENT = {"append_row_csv_options": None}  #: fields that do not count with these values: earlier versions had none of them


def run_fingerprint(
    config: ParallelRunConfig,
    *,
    inputs: list[dict[str, Any]],
    arguments: list[str],
    side_inputs: dict[str, str],
    key: bytes,
) -> dict[str, Any]:
    """Return all that makes a run the same run, as it is now, but what lies in its inputs; the source folder is read once.

    Args:
        config: Of the step; node counts, timeouts, limits and log level do not count.
        inputs: What the datasets are, as given; ``with_plan`` adds what was found there.
        arguments: As the script gets them.
        side_inputs: Path by name; size and time of what lies there count.
        key: Secret of this machine; environment variables count by a hash under it.

    Returns:
        ``identity`` (its parts, values that can be compared), and what they were made of, to name differences: ``code``
        (SHA-256 by file), ``shaping`` (the configuration's fields) and ``key_id`` (tells one machine's key from another's).
    """
    shown, code = result_fields(config), code_files(config)
    variables = config.environment_variables
    text = json.dumps(variables, sort_keys=True)
    parts = {
        "config_sha256": _sha256(json.dumps(shown, sort_keys=True)),
        "script_sha256": _script_sha256(code),
        "inputs": inputs,
        "arguments": arguments,
        "side_inputs": {name: _place_facts(path) for name, path in side_inputs.items()},
        "environment_variables": hmac.new(key, text.encode(), "sha256").hexdigest() if variables else "",
    }
    if config.models:  # runs without, of earlier versions too, are the same as before
        parts["models"] = {name: _place_facts(path) for name, path in config.models.items()}
    return {"identity": parts, "code": code, "shaping": shown, "key_id": hashlib.sha256(key).hexdigest()[:12]}


def with_plan(facts: dict[str, Any], summary: PlanSummary) -> dict[str, Any]:
    """Return what ``run_fingerprint`` returned, with what was found in the inputs."""
    found = {"inputs_sha256": summary.inputs_sha256, "plan_sha256": summary.sha256}
    return {**facts, "identity": {**facts["identity"], **found}}


def result_fields(config: ParallelRunConfig) -> dict[str, Any]:
    """Return the fields of *config* that shape the result: the script by its path in the source folder, conda's by its content.

    Raises:
        EnvironmentSetupError: The conda file cannot be read.
    """
    fields = config.model_dump(mode="json", include=set(_SHAPING))
    fields = {name: value for name, value in fields.items() if name not in _SILENT or value != _SILENT[name]}
    fields["isolate_failed_items"] = False  # may be turned on at any time; earlier versions counted it, mostly like this
    if isinstance(config.environment, Environment) and config.environment.conda_file is not None:
        fields["environment"]["conda_file"] = f"sha256 {_sha256(environment_plan(config.environment).conda)}"
    return {**fields, "entry_script": str(config.script_path.relative_to(config.source_path))}


def digest(parts: dict[str, Any]) -> str:
    """Return one hash over all parts."""
    return _sha256(json.dumps(parts, sort_keys=True))


def _script_sha256(code: dict[str, str]) -> str:
    total = hashlib.sha256()
    for name, sha256 in code.items():
        total.update(f"{name}\0{sha256}\0".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def code_files(config: ParallelRunConfig) -> dict[str, str]:
    """Return the SHA-256 of every file that counts as the script's code, by its path, sorted.

    A link to a file counts by what it leads to. The script itself counts even where rules leave it out.
    """
    tree = source_tree(config)
    found = {file.name: Path(file.path) for file in tree.files()}
    found.setdefault(tree.script.relative_to(tree.top).as_posix(), tree.script)
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(found.items()) if path.is_file()}


def source_tree(config: ParallelRunConfig) -> SourceTree:
    """Return where the script's code lies."""
    return SourceTree(config.source_path, config.script_path, config.source_directory is not None)


def machine_key(home: Path) -> bytes:
    """Return this machine's secret key, made on first use; readable by its owner only.

    Raises:
        PrefectHomeError: There is none, and it cannot be made, or it cannot be read.
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
    """Return a hash over path, size and version of every file in *folder* (or below a URL), run directories left out."""
    return Listing([folder]).exhaust()


def _place_facts(path: str) -> list[Any]:
    """Return path, size and version of a file; of a folder, its path and a hash over those of all files in it."""
    if is_remote(path) and (found := look(path)) is not None:
        return list(found)
    if is_remote(path) or Path(path).is_dir():
        return [path, listing_sha256(path)]
    return list(next(iter(Listing([path]))))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
