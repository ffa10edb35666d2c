"""Checks, before a node is used, that it can reach what the run needs: a wrong setup fails in seconds, not after hours."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

from prefect_parallel_run.node.code_archive import unpacked
from prefect_parallel_run.node.environments import cache_folder
from prefect_parallel_run.storage.objects import file_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightRequest:
    """The checks that a node shall run; paths are those of the flow process's machine."""

    run_directory: str
    mark: str  #: name of a file in the run directory, and its content
    places: tuple[tuple[str, str], ...]  #: required paths, each with the user's name for it
    script: str  #: path of the script
    script_sha256: str  #: "" when the code archive is used in any case
    bundle: str  #: SHA-256 of the bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightResult:
    """The answer of a node."""

    host: str
    missing: tuple[tuple[str, str], ...]  #: the required paths that it cannot read
    shares: bool  #: it sees the flow process's run directory and can write to it
    sees_script: bool  #: with the same content
    has_bundle: bool  #: it has the code archive unpacked


def run_checks(probe: PreflightRequest) -> PreflightResult:
    """Run the checks on this machine."""
    return PreflightResult(
        host=socket.gethostname(),
        missing=tuple((name, path) for name, path in probe.places if not os.access(path, os.R_OK)),
        shares=_shares(Path(probe.run_directory), probe.mark),
        sees_script=_sees_script(probe),
        has_bundle=unpacked(cache_folder(), probe.bundle) is not None,
    )


def _sees_script(probe: PreflightRequest) -> bool:
    """True when the script's path leads to the same content here."""
    if not probe.script_sha256:
        return False
    try:
        return file_sha256(probe.script) == probe.script_sha256
    except OSError:
        return False


def _shares(run_directory: Path, mark: str) -> bool:
    """True when this is the flow process's run directory, not another one of the same path, and parts can be written."""
    try:
        if (run_directory / mark).read_text() != mark:
            return False
        trial = run_directory / "parts" / f".{uuid.uuid4().hex}"
        trial.touch(exist_ok=False)
        trial.unlink()
    except (OSError, UnicodeDecodeError):
        return False
    return True
