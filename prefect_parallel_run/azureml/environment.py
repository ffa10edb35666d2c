"""The environment of a parallel job: what it says of packages, as an Environment of ours; containers are left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect_parallel_run.azureml.documents import Section, read_document
from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.azureml.references import References, you_said
from prefect_parallel_run.config.yaml_file import WHY_NO_AZURE, CondaDependencies, conda_dependencies

_FIELD = "task.environment"
_ELSE = "a virtual environment, or an interpreter"  #: what it can be given a place with
_WHY = {
    "image": "no containers here: the script runs in a process of the node",
    "build": "no containers here: the script runs in a process of the node",
    "inference_config": "scripts serve nothing here",
    "os_type": "nodes run Linux",
}


def job_environment(task: Section, references: References, findings: MigrationFindings) -> Any:
    """Return the environment field of a configuration: None, a path, or a mapping that makes an Environment.

    One that stands in the job itself is called by its name, by that of its conda file, or by the path of that.

    Raises:
        ValueError: It is neither a text nor a mapping, or its conda file does not exist.
    """
    given = task.get("environment")
    if given is None:
        return None
    if isinstance(given, str):
        return _named(given, references, findings)
    environment = task.section("environment")
    name = environment.get("name")
    for called in _names(environment):
        if (place := references.known(called)) is not None:
            findings.changed(_FIELD, called, place, you_said(place))
            return place
    for key in sorted(environment.keys() - {"name", "version", "conda_file", "$schema"}):
        findings.left(f"{_FIELD}.{key}", environment[key], _WHY.get(key, "says nothing about packages"))
    if environment.get("conda_file") is None:
        return None
    packages = _packages(environment, findings)
    return {**packages, **({} if name is None else {"name": str(name)})}


def _named(text: str, references: References, findings: MigrationFindings) -> str | None:
    known = references.known(text)
    if known is not None:
        findings.changed(_FIELD, text, known, you_said(known))
        return known
    why = f"it is known in your Azure workspace only; {_ELSE}"
    findings.changed(_FIELD, text, "this interpreter", why, text)
    return None


def _names(environment: Section) -> Iterator[str]:
    """Yield what an environment may be called; its conda file is looked into last, since it need not be there."""
    name, conda = environment.get("name"), environment.get("conda_file")
    if name is not None:
        yield from (str(name), f"azureml:{name}")
    if isinstance(conda, str):
        yield conda
        path = _beside(environment, conda)
        conda = read_document(path) if path.is_file() else None
    if isinstance(conda, Section) and conda.get("name") is not None:
        yield str(conda["name"])


def _beside(environment: Section, conda_file: str) -> Path:
    return environment.file.absolute().parent / conda_file


def _packages(environment: Section, findings: MigrationFindings) -> dict[str, Any]:
    """Return the packages of a conda file: as requirements of pip where that says it all, else the file itself."""
    given = environment["conda_file"]
    where = f"{_FIELD}.conda_file"
    if isinstance(given, Section):
        name = str(given.get("name") or environment.get("name") or "")
        return _as_requirements(where, None, _dependencies(given), name, findings)
    path = _beside(environment, str(given))
    if not path.is_file():
        raise ValueError(f"{environment.where('conda_file')}: conda_file is {given!r}; accepted: a file that exists")
    found = _dependencies(read_document(path))
    if not found.left:
        return _as_requirements(where, given, found, str(given), findings)
    why = f"{', '.join(found.left)} are packages of conda, so mamba, micromamba or conda has to be on the nodes"
    if any(entry.startswith("python") for entry in found.left):
        why += "; scripts run with Python 3.9 or later here"
    findings.changed(where, given, f"Environment(conda_file={str(path)!r})", f"{why}; {_ELSE}", str(given))
    return {"conda_file": str(path)}


def _dependencies(conda: Section) -> CondaDependencies:
    entries = conda.get("dependencies") or []
    if not isinstance(entries, list):
        raise conda.wrong("dependencies", "a list")
    return conda_dependencies(entries)


def _as_requirements(
    where: str, given: Any, found: CondaDependencies, reference: str, findings: MigrationFindings
) -> dict[str, Any]:
    for entry in found.left:
        findings.left(f"{where}.dependencies", entry, "a package of conda; name it as pip does in Environment(requirements=…)")
    if found.azure:
        findings.left(f"{where}.dependencies", ", ".join(found.azure), WHY_NO_AZURE)
    here = f"Environment with {len(found.requirements)} requirements" + (f" on Python {found.python}" if found.python else "")
    findings.changed(where, given, here, f"built with uv or pip, not with conda; {_ELSE}", reference)
    return {"requirements": found.requirements, **({} if found.python is None else {"python": found.python})}
