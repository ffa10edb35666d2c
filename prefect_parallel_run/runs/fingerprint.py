"""The fingerprint of a run: script, arguments, inputs, configuration; and how an earlier run differs from the current step."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from prefect_parallel_run._threads import Background, CheckCancelled, never_cancelled
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.where import Environment
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.environments import environment_plan
from prefect_parallel_run.errors import InputChangedError, InputError, LimitExceededError, PrefectHomeError, RowsDifferError
from prefect_parallel_run.models import Breach, MiniBatch, Tally
from prefect_parallel_run.planning.plan import Plan, PlanSummary
from prefect_parallel_run.planning.planner import inputs_sha256
from prefect_parallel_run.runs.executions import Overrides
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory, read_json
from prefect_parallel_run.runs.source_files import SourceTree
from prefect_parallel_run.runs.spec import StepSpec, failure_limits
from prefect_parallel_run.storage.listing import Listing
from prefect_parallel_run.storage.manifest import parts_in
from prefect_parallel_run.storage.objects import file_sha256, find_object, size_and_version, size_of
from prefect_parallel_run.storage.result_folder import changes

_RESULT_FIELDS = (
    "entry_script",
    "entry_function",
    "output_action",
    "environment",
    "mini_batch_size",
    "append_row_file_name",
    "append_row_format",
    "append_row_header",
    "partition_keys",
    "append_row_csv_options",
    "append_row_max_file_size",
    "append_row_input_columns",
)
#: Fields of a configuration or dataset that earlier versions lacked; with these values they are left out of the fingerprint.
_NEWER_DEFAULTS = (
    ("entry_function", None),
    ("append_row_csv_options", None),
    ("append_row_max_file_size", None),
    ("append_row_input_columns", None),
    ("column_types", None),
    ("na_values", None),
    ("keep_default_na", True),
)
_MOST = 20  #: differences named


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
        config: The step's configuration; node counts, timeouts, limits and log level do not affect the fingerprint.
        inputs: Datasets as plain values; ``with_plan`` adds hashes of their contents.
        arguments: Arguments of the script.
        side_inputs: Path by name; size and time of the files there are part of the fingerprint.
        key: Secret key of this machine, for the keyed hash of the environment variables.

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
    ignored = {"allow_empty", "paths"} if "query" in fields else {"allow_empty"}  # each run keeps the rows in a file of its own
    return {key: value for key, value in fields.items() if key not in ignored and (key, value) not in _NEWER_DEFAULTS}


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
    fields = {name: value for name, value in fields.items() if (name, value) not in _NEWER_DEFAULTS}
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


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line per difference, except those of input files; nothing when the fingerprints are equal.

    Args:
        then: ``identity`` (its parts), ``code`` (SHA-256 by file) and ``shaping`` (the configuration's fields), as planned.
        now: The current values, in the same form.
    """
    before, after = then["identity"], now["identity"]
    if before["config_sha256"] != after["config_sha256"]:
        yield from _compare_fields("configuration", then["shaping"], now["shaping"])
    if before["script_sha256"] != after["script_sha256"]:
        yield from _compare_entries("script file", then["code"], now["code"])
    if before["arguments"] != after["arguments"]:
        yield f"arguments were {before['arguments']}, are {after['arguments']}"
    yield from _compare_entries("side input", before["side_inputs"], after["side_inputs"])
    yield from _compare_entries("model", before.get("models", {}), after.get("models", {}))  # earlier versions had none
    is_comparable = then.get("key_id") == now.get("key_id")  # hashes under the keys of two machines always differ
    if is_comparable and before["environment_variables"] != after["environment_variables"]:
        yield "the values of environment_variables differ"


def input_differences(planned: Iterable[MiniBatch], datasets: Iterable[Dataset]) -> Iterator[str]:
    """Yield one line for every file that was added, deleted or modified since *planned* was made."""
    before = _files(planned)
    after = {file.path: (file.size, file.version) for dataset in datasets for file in dataset.listing()}
    if before and after and not before.keys() & after.keys():  # a table that was partitioned again has another path
        yield "the input files differ"
    else:
        yield from _compare_entries("input file", before, after)


def some(changes: Iterable[str]) -> tuple[str, ...]:
    """Return the first of *changes*, and "and more" if there are more than a person reads."""
    lines = list(islice(changes, _MOST + 1))
    if len(lines) > _MOST:
        lines[_MOST:] = ["and more"]
    return tuple(lines)


def _compare_fields(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield f"{what}: {name} was {before.get(name)!r}, is {after.get(name)!r}"


def _compare_entries(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        if name not in after:
            yield f"{what} {name} no longer exists"
        elif name not in before:
            yield f"{what} {name} is new"
        elif before[name] != after[name]:
            yield f"{what} {name} has changed"


def _files(planned: Iterable[MiniBatch]) -> dict[str, tuple[int, int | str]]:
    """Return size and version of every input file of a plan, by path."""
    versions: dict[str, tuple[int, int | str]] = {}
    for mini_batch in planned:
        work = json.loads(mini_batch.work)
        if work["kind"] == "files":
            for name, size, version in zip(work["names"], work["sizes"], work["versions"], strict=True):
                versions[work["root"] + name] = (size, version)
        else:
            for table in work.get("tables", [work]):
                versions[table["path"]] = (table["size"], table["version"])
    return versions


class InputCheck:
    """Lists the inputs of *spec* and compares them with the existing plan in *directory*."""

    def __init__(self, directory: RunDirectory, spec: StepSpec) -> None:
        self._directory, self._datasets = directory, spec.datasets
        self._is_verified = False
        self._listing = Background("listing", partial(inputs_sha256, spec.datasets)).start()

    def raise_if_failed(self) -> None:
        """Raise InputChangedError, which names every difference, if the listing has ended and differs from the plan."""
        if not self._is_verified and self._listing.is_over():
            self.wait()

    def wait(self, check_cancelled: CheckCancelled = never_cancelled) -> None:
        """Return when all inputs are verified; raises InputChangedError."""
        plan = Plan(self._directory.plan)
        if self._listing.wait(check_cancelled) != plan.summary.inputs_sha256:
            changes = some(input_differences(plan.mini_batches(), self._datasets))
            raise InputChangedError(str(self._directory.path), changes or ("the order of its input files has changed",))
        self._is_verified = True

    def stop(self) -> None:
        """Cancel the verification."""
        self._listing.stop()


def may_be_reused(directory: RunDirectory, spec: StepSpec) -> bool:
    """True when the result is recent enough and unaltered, and its failures are within the limits of *spec*."""
    receipt = read_json(directory.receipt)
    if spec.reuse.within is not None:
        finished = float(receipt.get("finished") or directory.receipt.stat().st_mtime)  # earlier versions did not record it
        if time.time() - finished > spec.reuse.within:
            return False
    return breach_of(receipt, spec) is None and is_unaltered(receipt, spec)


def breach_of(receipt: dict[str, Any], spec: StepSpec, given: frozenset[str] = frozenset()) -> Breach | None:
    """Return the limit that a finished run exceeds, or None; overrides of that run apply, except for the *given* fields."""
    tally = Tally(
        planned=receipt["mini_batches"]["total"],
        failed=receipt["mini_batches"]["failed"],
        failed_items=receipt["items"]["failed"],
        all_scheduled=True,
    )
    config = Overrides.of_receipt(receipt).without(given).of(spec.config)
    return failure_limits(config).first_breach(tally)


def is_unaltered(receipt: dict[str, Any], spec: StepSpec) -> bool:
    """True when the result is unchanged, and the files in the output too if the script writes them itself."""
    if spec.output is not None and (receipt["output_file"] is None or "output_listing" in receipt):
        try:
            listing = listing_sha256(spec.output)
        except InputError:  # it was deleted
            return False
        if receipt.get("output_listing") != listing:
            return False
    if receipt["output_file"] is None:
        return True
    path = str(receipt["output_file"])
    if "parts" in receipt:
        return not any(changes(path, parts_in(receipt["parts"])))
    if is_remote(path):  # an object with the same ETag is unchanged, and need not be read
        return size_and_version(path) == (int(receipt["bytes"]), str(receipt["version"]))
    return size_of(path) == receipt["bytes"] and file_sha256(path) == str(receipt["sha256"])


def can_resume(directory: RunDirectory, spec: StepSpec) -> bool:
    """True for an interrupted run; for a failed one only if its failures are within the current limits."""
    with Ledger(directory.ledger) as ledger:
        tally, metadata = ledger.tally(), ledger.metadata()
        if not directory.plan.exists():  # planning did not finish
            tally = replace(tally, all_scheduled=False)
        if spec.config.isolate_failed_items:  # a resume bisects these
            count, items = ledger.isolable()
            tally = replace(tally, failed=tally.failed - count, failed_items=tally.failed_items - items)
    if failure_limits(Overrides.of_metadata(metadata).of(spec.config)).first_breach(tally) is not None:
        return False
    ended_by, is_unfinished = metadata.get("ended_by"), tally.finished < tally.planned
    may_succeed = ended_by == LimitExceededError.__name__ or (is_unfinished and ended_by != RowsDifferError.__name__)
    return may_succeed or metadata.get("status") != "failed"


def can_be_bisected(directory: RunDirectory, spec: StepSpec) -> bool:
    """True when *spec* isolates failed items and the run has failed mini-batches that were not bisected."""
    if not spec.config.isolate_failed_items:
        return False
    with Ledger(directory.ledger) as ledger:
        return ledger.isolable()[0] > 0
