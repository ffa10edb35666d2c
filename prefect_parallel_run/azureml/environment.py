"""Converts the environment of a parallel job to an Environment, as far as packages go; containers are left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect_parallel_run.azureml.findings import ENVIRONMENT_LEFT, MigrationFindings
from prefect_parallel_run.azureml.references import Migration, mapping_note
from prefect_parallel_run.config.yaml_file import WHY_NO_AZURE, CondaDependencies, conda_dependencies
from prefect_parallel_run.config.yaml_reader import Section, read_document

_FIELD = "task.environment"
_CONDA = f"{_FIELD}.conda_file"
_ELSE = "a virtual environment, or an interpreter"  #: alternatives to map the environment to


def job_environment(task: Section, migration: Migration) -> Any:
    """Return the environment field of a configuration: None, a path, or a mapping that makes an Environment.

    An inline environment is referred to by its name, the name in its conda file, or the path of that file.

    Raises:
        ValueError: The environment is neither a string nor a mapping, or its conda file does not exist.
    """
    environment = task.get("environment")
    if environment is None:
        return None
    if isinstance(environment, str):
        return _resolve_name(environment, migration)
    environment = task.section("environment")
    for reference in _names(environment):
        if (location := migration.references.known(reference)) is not None:
            migration.changed(_FIELD, reference, location, mapping_note(location))
            return location
    migration.left_out_of(environment, ENVIRONMENT_LEFT, f"{_FIELD}.")
    if environment.get("conda_file") is None:
        return None
    name = environment.get("name")
    return {**_packages(environment, migration), **({} if name is None else {"name": str(name)})}


def _resolve_name(text: str, migration: Migration) -> str | None:
    known = migration.references.known(text)
    if known is not None:
        migration.changed(_FIELD, text, known, mapping_note(known))
    else:
        migration.changed(_FIELD, text, "this interpreter", f"only your Azure workspace can resolve it; {_ELSE}", text)
    return known


def _names(environment: Section) -> Iterator[str]:
    """Yield the names of an environment; the one in its conda file comes last, since that file may be missing."""
    name, conda = environment.get("name"), environment.get("conda_file")
    if name is not None:
        yield from (str(name), f"azureml:{name}")
    if isinstance(conda, str):
        yield conda
        path = _conda_path(environment, conda)
        conda = read_document(path) if path.is_file() else None
    if isinstance(conda, Section) and conda.get("name") is not None:
        yield str(conda["name"])


def _conda_path(environment: Section, conda_file: str) -> Path:
    return environment.file.absolute().parent / conda_file


def _packages(environment: Section, findings: MigrationFindings) -> dict[str, Any]:
    """Return the packages of a conda file: as pip requirements if those suffice, else as the file itself."""
    conda = environment["conda_file"]
    if isinstance(conda, Section):
        name = str(conda.get("name") or environment.get("name") or "")
        return _as_requirements(None, _dependencies(conda), name, findings)
    path = _conda_path(environment, str(conda))
    if not path.is_file():
        raise environment.error("conda_file", "an existing file")
    dependencies = _dependencies(read_document(path))
    if not dependencies.left_out:
        return _as_requirements(conda, dependencies, str(conda), findings)
    why = f"{', '.join(dependencies.left_out)} are conda packages, so the nodes need mamba, micromamba or conda"
    if any(entry.startswith("python") for entry in dependencies.left_out):
        why += "; scripts require Python 3.9 or later here"
    findings.changed(_CONDA, conda, f"Environment(conda_file={str(path)!r})", f"{why}; {_ELSE}", str(conda))
    return {"conda_file": str(path)}


def _dependencies(conda: Section) -> CondaDependencies:
    entries = conda.get("dependencies") or []
    if not isinstance(entries, list):
        raise conda.error("dependencies", "a list")
    return conda_dependencies(entries)


def _as_requirements(
    conda_file: Any, dependencies: CondaDependencies, reference: str, findings: MigrationFindings
) -> dict[str, Any]:
    requirements, python, left_out, azure_packages = dependencies
    for entry in left_out:
        why = "a conda package; add it under pip's name to Environment(requirements=…)"
        findings.left_out(f"{_CONDA}.dependencies", entry, why)
    if azure_packages:
        findings.left_out(f"{_CONDA}.dependencies", ", ".join(azure_packages), WHY_NO_AZURE)
    here = f"Environment with {len(requirements)} requirements" + (f" on Python {python}" if python else "")
    findings.changed(_CONDA, conda_file, here, f"built with uv or pip, not conda; {_ELSE}", reference)
    return {"requirements": requirements, **({} if python is None else {"python": python})}
