"""Converts the environment of a parallel job to an Environment, as far as packages go; containers are left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.azureml.references import References, mapping_note
from prefect_parallel_run.config.yaml_file import WHY_NO_AZURE, CondaDependencies, conda_dependencies
from prefect_parallel_run.config.yaml_reader import Section, read_document

_FIELD = "task.environment"
_ELSE = "a virtual environment, or an interpreter"  #: alternatives to map the environment to
_WHY = {
    "image": "containers are not supported: the script runs in a process of the node",
    "build": "containers are not supported: the script runs in a process of the node",
    "inference_config": "scripts do not serve requests here",
    "os_type": "nodes run Linux",
}


def job_environment(task: Section, references: References, findings: MigrationFindings) -> Any:
    """Return the environment field of a configuration: None, a path, or a mapping that makes an Environment.

    An inline environment is referred to by its name, the name in its conda file, or the path of that file.

    Raises:
        ValueError: The environment is neither a string nor a mapping, or its conda file does not exist.
    """
    environment_value = task.get("environment")
    if environment_value is None:
        return None
    if isinstance(environment_value, str):
        return _resolve_name(environment_value, references, findings)
    environment = task.section("environment")
    name = environment.get("name")
    for reference in _names(environment):
        if (location := references.known(reference)) is not None:
            findings.changed(_FIELD, reference, location, mapping_note(location))
            return location
    for key in sorted(environment.keys() - {"name", "version", "conda_file", "$schema"}):
        findings.left_out(f"{_FIELD}.{key}", environment[key], _WHY.get(key, "does not concern packages"))
    if environment.get("conda_file") is None:
        return None
    packages = _packages(environment, findings)
    return {**packages, **({} if name is None else {"name": str(name)})}


def _resolve_name(text: str, references: References, findings: MigrationFindings) -> str | None:
    known = references.known(text)
    if known is not None:
        findings.changed(_FIELD, text, known, mapping_note(known))
        return known
    why = f"only your Azure workspace can resolve it; {_ELSE}"
    findings.changed(_FIELD, text, "this interpreter", why, text)
    return None


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
    environment_value = environment["conda_file"]
    where = f"{_FIELD}.conda_file"
    if isinstance(environment_value, Section):
        name = str(environment_value.get("name") or environment.get("name") or "")
        return _as_requirements(where, None, _dependencies(environment_value), name, findings)
    path = _conda_path(environment, str(environment_value))
    if not path.is_file():
        raise ValueError(f"{environment.where('conda_file')}: conda_file is {environment_value!r}; expected an existing file")
    dependencies = _dependencies(read_document(path))
    if not dependencies.left_out:
        return _as_requirements(where, environment_value, dependencies, str(environment_value), findings)
    why = f"{', '.join(dependencies.left_out)} are conda packages, so the nodes need mamba, micromamba or conda"
    if any(entry.startswith("python") for entry in dependencies.left_out):
        why += "; scripts require Python 3.9 or later here"
    findings.changed(
        where, environment_value, f"Environment(conda_file={str(path)!r})", f"{why}; {_ELSE}", str(environment_value)
    )
    return {"conda_file": str(path)}


def _dependencies(conda: Section) -> CondaDependencies:
    entries = conda.get("dependencies") or []
    if not isinstance(entries, list):
        raise conda.error("dependencies", "a list")
    return conda_dependencies(entries)


def _as_requirements(
    where: str, conda_file: Any, dependencies: CondaDependencies, reference: str, findings: MigrationFindings
) -> dict[str, Any]:
    for entry in dependencies.left_out:
        findings.left_out(
            f"{where}.dependencies", entry, "a conda package; add it under pip's name to Environment(requirements=…)"
        )
    if dependencies.azure_packages:
        findings.left_out(f"{where}.dependencies", ", ".join(dependencies.azure_packages), WHY_NO_AZURE)
    here = f"Environment with {len(dependencies.requirements)} requirements" + (
        f" on Python {dependencies.python}" if dependencies.python else ""
    )
    findings.changed(where, conda_file, here, f"built with uv or pip, not conda; {_ELSE}", reference)
    return {
        "requirements": dependencies.requirements,
        **({} if dependencies.python is None else {"python": dependencies.python}),
    }
