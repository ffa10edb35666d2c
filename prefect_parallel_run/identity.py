"""What makes two runs the same run: script, arguments, inputs, and the configuration as far as it shapes the result."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect_parallel_run.config import ParallelRunConfig

_SHAPING = (
    "entry_script",
    "output_action",
    "environment",
    "mini_batch_size",
    "append_row_file_name",
    "append_row_format",
    "append_row_header",
    "partition_keys",
    "isolate_failed_items",
)
_LEFT_OUT = {"__pycache__", "_parallel_run", "node_modules"}


def identity(
    config: ParallelRunConfig,
    *,
    plan_sha256: str,
    arguments: list[str],
    side_inputs: dict[str, str],
    key: bytes,
) -> dict[str, Any]:
    """Return what identifies a run, part by part, each a value that can be compared and shown.

    Args:
        config: Of the step; node counts, timeouts, limits and log level do not count.
        plan_sha256: Of the plan's content, which has each input file's path, size and time in it.
        arguments: As the script gets them.
        side_inputs: Path by name.
        key: Secret of this machine; environment variables count by a hash under it.
    """
    shown = config.model_dump(mode="json", include=set(_SHAPING))
    variables = json.dumps(config.environment_variables, sort_keys=True)
    return {
        "config_sha256": _sha256(json.dumps(shown, sort_keys=True)),
        "script_sha256": script_sha256(config),
        "plan_sha256": plan_sha256,
        "arguments": arguments,
        "side_inputs": side_inputs,
        "environment_variables": hmac.new(key, variables.encode(), "sha256").hexdigest(),
    }


def digest(parts: dict[str, Any]) -> str:
    """Return one hash over all parts."""
    return _sha256(json.dumps(parts, sort_keys=True))


def script_sha256(config: ParallelRunConfig) -> str:
    """Return a hash of the script's code: of source_directory whole, or of the Python files beside the script."""
    total = hashlib.sha256()
    for name, path in sorted(_code_files(config)):
        total.update(f"{name}\0".encode("utf-8", "surrogateescape"))
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def machine_key(home: Path) -> bytes:
    """Return this machine's secret key, made on first use; readable by its owner only."""
    path = home / "prefect_parallel_run.key"
    home.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(32))
    return path.read_bytes()


def _code_files(config: ParallelRunConfig) -> Iterator[tuple[str, Path]]:
    source = config.source_path
    if config.source_directory is None:
        for path in source.glob("*.py"):
            yield path.name, path
        if config.script_path.suffix != ".py":
            yield config.script_path.name, config.script_path
        return
    for folder, folders, files in os.walk(source):
        folders[:] = [name for name in folders if name not in _LEFT_OUT and not name.startswith(".")]
        for name in files:
            path = Path(folder, name)
            if path.is_file() and not name.startswith("."):
                yield str(path.relative_to(source)), path


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
