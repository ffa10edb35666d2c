"""Loads any Azure ML file that describes a parallel run step or its table: ``load(path)``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_parallel_run.azureml.findings import Difference, ImportedStep, MigrationFindings, Outcome, step_name
from prefect_parallel_run.azureml.job_fields import WHY_NO_TARGET, report_variables
from prefect_parallel_run.azureml.jobs import load_jobs
from prefect_parallel_run.azureml.known_fields import PARALLEL
from prefect_parallel_run.azureml.mltable import FILE_NAME, load_mltable
from prefect_parallel_run.azureml.references import Migration, References, mapping_note
from prefect_parallel_run.azureml.settings import SETTINGS_FILE, source_settings
from prefect_parallel_run.config.base import build
from prefect_parallel_run.config.model import LOCAL, ParallelRunConfig
from prefect_parallel_run.config.validation import find_beside, names_a_cluster
from prefect_parallel_run.config.yaml_file import WHY_NO_AZURE, ParsedConfig, read_fields
from prefect_parallel_run.config.yaml_reader import Section, read_document
from prefect_parallel_run.datasets.base import Dataset

_ENVIRONMENT_WHY = (
    "of an environment only name, variables, Python version and pip requirements are taken over; use"
    " Environment(conda_file=…) for conda packages"
)
_WITHOUT_INPUTS = "this file does not contain them: pass them to the step"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The content of a file: steps, or the dataset of an MLTable file; and the differences of the rest of the file."""

    file: Path
    steps: tuple[ImportedStep, ...] = ()
    dataset: Dataset | None = None
    differences: tuple[Difference, ...] = ()  #: those of the whole file; each step has its own

    @property
    def undecided(self) -> list[Difference]:
        """Return the decisions that are required before anything can run."""
        groups = [self.differences, *(step.differences for step in self.steps)]
        return [difference for group in groups for difference in group if difference.outcome is Outcome.OPEN]


def load(path: str | os.PathLike[str], references: Mapping[str, str] | None = None) -> Imported:
    """Load an Azure ML file.

    Args:
        path: A ParallelRunConfig written by ``save_to_yaml`` (version 1); a pipeline job, parallel job or parallel component
            (version 2); an MLTable file, or its folder.
        references: Paths, URLs or compute targets for names that only an Azure workspace can resolve, and values of inputs,
            such as ``{"azureml:iris:1": "/data/iris"}``; a reference that ends in ``/`` applies to all that start with it.

    Raises:
        ValueError: The file is none of these, is invalid or not supported, or lacks one of *references*.
        OSError: The file cannot be read.
    """
    file = Path(path)
    known = References(references)
    imported = _load(file, known)
    if known.unused():
        raise ValueError(f"{file}: the file has no reference {', '.join(known.unused())}")
    return imported


def _load(file: Path, references: References) -> Imported:
    if file.is_dir() and not (file / FILE_NAME).is_file():
        raise ValueError(f"{file}: the folder lacks a file {FILE_NAME}; expected a YAML file, or a folder with {FILE_NAME}")
    document = Section(file) if file.is_dir() or file.name == FILE_NAME else read_document(file)
    if "parallel_run_config" in document or _is_without_root_key(document):
        return Imported(file=file, steps=(load_v1(file, references),))
    if not document or document.get("type") == "mltable" or "paths" in document:
        table = load_mltable(file, references)
        return Imported(file=file, dataset=table.dataset, differences=tuple(table.differences))
    steps, differences = load_jobs(document, references)
    return Imported(file=file, steps=tuple(steps), differences=tuple(differences))


def _is_without_root_key(document: Section) -> bool:
    """True for the fields of a ParallelRunConfig at the top level; the reader of version 1 reports the missing root key."""
    only = {*ParallelRunConfig.model_fields, "compute_target_name"} - PARALLEL.keys()
    return bool(only & document.keys()) and not {"type", "task", "jobs"} & document.keys()


def load_v1(path: Path, references: References) -> ImportedStep:
    """Return the step configured in *path*; a relative source_directory is relative to the current folder or to the file.

    Raises:
        ValueError: The file is not such a configuration, or a field is invalid; the error names file, line and field.
    """
    parsed = read_fields(path)
    values = parsed.values
    migration = Migration(references=references)
    migration.left_out("inputs, side_inputs, arguments, output", None, _WITHOUT_INPUTS)
    _environment(parsed, migration)
    fields = {key: value for key, value in values.items() if value is not None}
    fields["compute_target"] = _target(fields.get("compute_target"), migration)
    _anchor(fields, path.absolute().parent, migration)
    for key in sorted(fields.keys() - {"compute_target", "source_directory", "environment", "environment_variables"}):
        migration.taken(key, values[key], "the same")
    if isinstance(fields.get("environment"), dict):  # not shown: a requirement may contain a password
        migration.taken("environment", fields["environment"].get("name"), "an Environment")
    config = build(ParallelRunConfig, fields, parsed.locations, f"{path}, line 1")
    report_variables(config.environment_variables, migration)
    migration.add(source_settings(config).differences, f"{SETTINGS_FILE} ")
    return ImportedStep(file=path, name=step_name(path.stem), fields=fields, differences=tuple(migration.differences))


def _environment(parsed: ParsedConfig, migration: Migration) -> None:
    """Set the environment to the location that the user has provided, or record what is left out of it."""
    environment = parsed.values.get("environment")
    name = parsed.named.get("environment_name") or (environment.get("name") if isinstance(environment, dict) else None)
    location = None if name is None else migration.references.known(str(name)) or migration.references.known(f"azureml:{name}")
    if location is not None:
        parsed.values["environment"] = location
        migration.changed("environment", name, location, mapping_note(location))
        return
    if left := [entry for entry in parsed.left_out if entry.partition(" ")[0] not in parsed.named]:
        migration.left_out(f"environment: {', '.join(left)}", None, _ENVIRONMENT_WHY)
    if parsed.azure_packages:
        migration.left_out(f"environment: {', '.join(parsed.azure_packages)}", None, WHY_NO_AZURE)
    for key, value in parsed.named.items():
        if value is not None:
            why = "only your Azure workspace can resolve it; a virtual environment, or an interpreter"
            if key == "environment_dir_path":
                why = "list its packages with Environment(requirements=[…]) or Environment(conda_file=…)"
            migration.left_out(key, value, why)


def _target(target: Any, migration: Migration) -> Any:
    """Return the compute target: the one that the user has provided, an address or class unchanged, else this machine."""
    if not isinstance(target, str) or target == LOCAL:
        return LOCAL if target is None else target
    known = migration.references.known(target) or migration.references.known(f"azureml:{target}")
    if known is not None:
        migration.changed("compute_target", target, known, "as specified")
        return known
    if names_a_cluster(target):
        migration.taken("compute_target", target, "the same")
        return target
    migration.changed("compute_target", target, "this machine", WHY_NO_TARGET, target)
    return LOCAL


def _anchor(fields: dict[str, Any], folder: Path, findings: MigrationFindings) -> None:
    """Make source_directory, or an entry_script without one, relative to the file's folder if it exists only there."""
    source_directory = fields.get("source_directory")
    fields |= find_beside(fields, folder)
    if not isinstance(source_directory, str):
        return  # validation reports an invalid value with its line
    here = fields["source_directory"]
    if here == source_directory and not _same(source_directory, folder):
        why = f"it is relative to the current folder; another one exists beside the file, in {folder}"
        findings.changed("source_directory", source_directory, str(Path(source_directory).resolve()), why)
    else:
        findings.taken("source_directory", source_directory, "the same" if here == source_directory else here)


def _same(source_directory: str, folder: Path) -> bool:
    return not (folder / source_directory).is_dir() or Path(source_directory).resolve() == (folder / source_directory).resolve()
