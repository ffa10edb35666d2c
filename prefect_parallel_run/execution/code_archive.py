"""Prepares nodes on other machines: a bundle with the entry script's code, a marker in the run directory, paths to check.

Equal source trees produce byte-identical bundles, so that the bundle's name, a hash, shows whether a node already has it.
Paths in it are relative to the importable folder; ``node/code_archive.py`` unpacks it.
"""

from __future__ import annotations

import json
import os
import stat
import uuid
import zipfile
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO

from prefect_parallel_run._atomic import AtomicFile
from prefect_parallel_run._threads import CheckCancelled, never_cancelled
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.dispatch.node_setup import RemoteSetup
from prefect_parallel_run.errors import OutputError
from prefect_parallel_run.node.preflight import PreflightRequest
from prefect_parallel_run.node.settings import CodeBundle, NodeSettings
from prefect_parallel_run.planning.plan import PlanReader
from prefect_parallel_run.runs.fingerprint import source_tree
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.runs.source_files import MOST_BYTES, MOST_FILES, SourceFile, SourceTree, is_regular
from prefect_parallel_run.runs.spec import StepSpec
from prefect_parallel_run.storage.objects import file_sha256, sha256_of

_BLOCK = 1 << 20  #: bytes
_MAX_READS = 3  #: attempts to read a tree that changes meanwhile
_EPOCH = (1980, 1, 1, 0, 0, 0)  #: time stamp of every file: modification times are not part of the code
_CODE = "the entry script's code"
_ADVICE = "exclude what the script does not need with .amlignore, and pass data as side_inputs"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk."""

    path: Path
    sha256: str  #: SHA-256 of the file
    size: int  #: size of the file, bytes
    source: str  #: importable folder, relative to where the bundle is unpacked; "." for that folder itself
    script: str  #: the script, relative to where the bundle is unpacked


class _ChangedError(Exception):
    """The tree changed after it was listed; the argument is a path in it."""


def make_bundle(config: ParallelRunConfig, folder: Path, check_cancelled: CheckCancelled = never_cancelled) -> Bundle:
    """Write the script's code to ``bundle-<sha256>.zip`` in *folder* and return the bundle.

    Args:
        config: Provides source_directory and entry_script.
        folder: Folder for bundles, created if necessary.
        check_cancelled: Called between blocks; raises to stop.

    Raises:
        ValueError: The code cannot be bundled: it is too large, contains links or other special files, excludes its own
            script, or keeps changing while it is read.
        OutputError: The bundle cannot be written.
    """
    tree = source_tree(config)
    for _ in range(_MAX_READS):
        try:
            return _write_bundle(tree, folder, check_cancelled)
        except _ChangedError as error:
            changed = str(error)
    raise ValueError(f"{_CODE} changed while it was read: {changed}; {_ADVICE}")


def _write_bundle(tree: SourceTree, folder: Path, check_cancelled: CheckCancelled) -> Bundle:
    """Write the bundle; raises _ChangedError when the tree changes meanwhile."""
    files = _files(tree)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        bundle = AtomicFile(folder / "bundle", token=uuid.uuid4().hex, mode=0o600)  # code may hold secrets
        with bundle as target:
            with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in files:
                    _add_file(archive, file, check_cancelled)
            sha256, size = sha256_of(target, check_cancelled), target.tell()
            if changed := {*files} ^ {*_files(tree)}:
                raise _ChangedError(min(file.path for file in changed))
            bundle.path = folder / f"bundle-{sha256}.zip"
    except OSError as error:
        raise OutputError(str(folder), f"the script's bundle cannot be written: {error.strerror}") from error
    source, script = (entry.relative_to(tree.top).as_posix() for entry in (tree.folder, tree.script))
    return Bundle(bundle.path, sha256, size, source, script)


def _files(tree: SourceTree) -> list[SourceFile]:
    """Return the files to bundle, sorted by name, without reading them; raises ValueError when they cannot be bundled."""
    files = sorted(islice(tree.files(), MOST_FILES + 1))
    _check_size(files)
    for file in files:
        if not is_regular(file):
            kind = "a link" if stat.S_ISLNK(file.mode) else "not a regular file"
            raise ValueError(f"{_CODE} cannot be sent to nodes: {file.path} is {kind}; exclude it or replace it by a file")
        try:
            file.name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{_CODE} cannot be sent to nodes: the name of {file.path!r} is not valid UTF-8") from None
    if str(tree.script) not in {file.path for file in files}:
        raise ValueError(
            f"entry_script {str(tree.script)!r} cannot be sent to nodes: it is hidden, or excluded by .amlignore or .gitignore"
        )
    return files


def _check_size(files: list[SourceFile]) -> None:
    size = sum(file.size for file in files)
    if size > MOST_BYTES:
        shares = Counter[str]()
        for file in files:
            shares[file.path if file.size > MOST_BYTES // 10 else file.path.rpartition("/")[0]] += file.size
        largest = ", ".join(f"{path} ({share / 2**20:.0f} MB)" for path, share in shares.most_common(3))
        raise ValueError(f"{_CODE} is larger than {MOST_BYTES >> 20} MB; most of it is in {largest}; {_ADVICE}")
    if len(files) > MOST_FILES:
        counts = Counter(file.path.rpartition("/")[0] for file in files)
        largest = ", ".join(f"{path} ({count})" for path, count in counts.most_common(3))
        raise ValueError(f"{_CODE} has more than {MOST_FILES} files; most of them are in {largest}; {_ADVICE}")


def _add_file(archive: zipfile.ZipFile, file: SourceFile, check_cancelled: CheckCancelled) -> None:
    member = zipfile.ZipInfo(file.name, _EPOCH)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.create_system = 3  # Unix, so that permissions are kept
    member.external_attr = (0o100755 if file.mode & 0o100 else 0o100644) << 16
    member.file_size = file.size
    with _open(file) as source, archive.open(member, "w") as target:
        remaining = file.size
        while remaining and (block := source.read(min(_BLOCK, remaining))):
            target.write(block)
            remaining -= len(block)
            check_cancelled()


def _open(file: SourceFile) -> IO[bytes]:
    """Open a file for reading, without following a link or waiting for a pipe that replaced it meanwhile."""
    try:
        return open(file.path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK))
    except PermissionError as error:
        raise ValueError(f"{_CODE} cannot be sent to nodes: {file.path} cannot be read: {error.strerror}") from error
    except OSError as error:
        raise _ChangedError(file.path) from error


def prepare_remote(
    spec: StepSpec, directory: RunDirectory, settings: NodeSettings, plan: PlanReader, check_cancelled: CheckCancelled
) -> tuple[NodeSettings, RemoteSetup]:
    """Return settings for nodes that may be on other machines, and what these nodes must check and receive.

    With a source_directory, every node runs the bundled copy, so edits during the run have no effect. Without one, a node
    that can access the same script runs it in place, next to the other files there.

    Raises:
        ValueError: The script's code cannot be bundled.
    """
    bundle = make_bundle(spec.config, directory.path, check_cancelled)
    mark = f".seen-{settings.token}"
    (directory.path / mark).write_text(mark)
    preflight = PreflightRequest(
        run_directory=str(directory.path),
        mark=mark,
        places=(*spec.places, *_first_file(plan, has_any=settings.node.most_slots > 0)),
        script=settings.script.path,
        script_sha256="" if spec.config.source_directory is not None else file_sha256(spec.config.script_path),
        bundle=bundle.sha256,
    )
    script = replace(settings.script, bundle=CodeBundle(bundle.sha256, bundle.source, bundle.script))
    return replace(settings, script=script).with_node(is_kept=True), RemoteSetup(
        preflight=preflight, bundle=bundle.path, mark=directory.path / mark
    )


def _first_file(plan: PlanReader, *, has_any: bool) -> tuple[tuple[str, str], ...]:
    """Return one planned file to check: a folder with the right name may have other contents."""
    if not has_any:
        return ()
    work = json.loads(plan.works(0, 1)[0])
    table = work["tables"][0] if "tables" in work else work
    path = f"{work['root']}{work['names'][0]}" if "names" in work else str(table["path"])
    exists = not is_remote(path) and Path(path).exists()  # deleted since planning: its mini-batch will fail
    return (("input", path),) if exists else ()
