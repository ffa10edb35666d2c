"""Any file of Azure ML's that describes a parallel run step or its table: ``load(path)``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prefect_parallel_run.azureml.documents import Section, read_document
from prefect_parallel_run.azureml.findings import Difference, Outcome
from prefect_parallel_run.azureml.mltable import FILE_NAME, load_mltable
from prefect_parallel_run.azureml.references import References
from prefect_parallel_run.azureml.schema import PARALLEL
from prefect_parallel_run.azureml.step import ImportedStep
from prefect_parallel_run.azureml.v1 import load_v1
from prefect_parallel_run.azureml.v2 import load_jobs
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.datasets.base import Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What a file says: steps, or the dataset of an MLTable file; and what became of the rest of it."""

    file: Path
    steps: tuple[ImportedStep, ...] = ()
    dataset: Dataset | None = None
    differences: tuple[Difference, ...] = ()  #: of the file as a whole; those of a step stand with it

    @property
    def undecided(self) -> list[Difference]:
        """Return what a person has to decide before anything may run."""
        several = [self.differences, *(step.differences for step in self.steps)]
        return [one for differences in several for one in differences if one.outcome is Outcome.OPEN]


def load(path: str | os.PathLike[str], references: Mapping[str, str] | None = None) -> Imported:
    """Return what a file of Azure ML's says.

    Args:
        path: A ParallelRunConfig that ``save_to_yaml`` wrote (version 1); a pipeline job, parallel job or parallel component
            (version 2); an MLTable file, or the folder it lies in.
        references: Paths, URLs or compute targets for what only an Azure workspace knows, and values of inputs, such as
            ``{"azureml:iris:1": "/data/iris"}``; a reference that ends in ``/`` stands for all that begin with it.

    Raises:
        ValueError: It is none of these, says what cannot be said here, or does not have one of *references*.
        OSError: It cannot be read.
    """
    file = Path(path)
    known = References(references)
    found = _loaded(file, known)
    if known.unused():
        raise ValueError(f"{file}: there is no {', '.join(known.unused())} to give a place or a value")
    return found


def _is_without_root_key(document: Section) -> bool:
    """True for fields that only a ParallelRunConfig has, at the top: the reader of version 1 says what is missing."""
    only = {*ParallelRunConfig.model_fields, "compute_target_name"} - PARALLEL
    return bool(only & document.keys()) and not {"type", "task", "jobs"} & document.keys()


def _loaded(file: Path, references: References) -> Imported:
    if file.is_dir() and not (file / FILE_NAME).is_file():
        raise ValueError(f"{file}: is a folder without a file {FILE_NAME}; accepted: a YAML file, or a folder with one")
    if file.is_dir() or file.name == FILE_NAME:
        table = load_mltable(file, references)
        return Imported(file=file, dataset=table.dataset, differences=tuple(table.differences))
    document = read_document(file)
    if "parallel_run_config" in document or _is_without_root_key(document):
        return Imported(file=file, steps=(load_v1(file, references),))
    if document.get("type") == "mltable" or "paths" in document:
        table = load_mltable(file, references)
        return Imported(file=file, dataset=table.dataset, differences=tuple(table.differences))
    jobs = load_jobs(file, references, document)
    return Imported(file=file, steps=tuple(jobs.steps), differences=tuple(jobs.differences))
