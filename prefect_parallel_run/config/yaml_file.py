"""ParallelRunConfig as a YAML file: ours, and those that Azure ML's save_to_yaml writes. Every error names the line."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from prefect_parallel_run._atomic import AtomicFile
from prefect_parallel_run.config.base import Model, build
from prefect_parallel_run.config.validation import find_beside
from prefect_parallel_run.config.yaml_reader import plain, read_document

_ROOT = "parallel_run_config"
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LATE_REFERENCE = re.compile(r"\{\{\s*prefect\.[^}]*\}\}")
_OLD_NAMES = {"compute_target_name": "compute_target"}
_AZURE_ENVIRONMENT = {"python", "environmentVariables", "docker", "spark", "databricks", "r", "inferencingStackVersion"}
_NAMED_ENVIRONMENT = ("environment_name", "environment_version", "environment_dir_path")
#: Requirements whose modules the script's process replaces by stand-ins; a model may need other packages of that kind to load.
_REPLACED = re.compile(
    r"azureml-(core|sdk|defaults|dataset-runtime|dataprep(-native|-rslex)?|telemetry|pipeline(-core|-steps)?|train(-core)?)"
    r"(?![\w-])(.*)",
    re.IGNORECASE,
)
WHY_NO_AZURE = "the script's process has stand-ins for it; add it to requirements if the script needs the real package"
_CONDA_PYTHON = re.compile(r"python\s*={1,2}\s*(3\.(?:9|[1-9][0-9])(?:\.[0-9]+)?)")  # older versions cannot run the script


class ParsedConfig(NamedTuple):
    """The fields of a file as plain values, their lines, and the parts of an Azure environment that do not apply here."""

    values: dict[str, Any]
    locations: dict[str, str]  #: file and line by field
    left_out: tuple[str, ...] = ()
    azure_packages: tuple[str, ...] = ()  #: Azure packages among its requirements, which are ignored
    named: Mapping[str, Any] = MappingProxyType({})  #: fields that refer to an environment in a workspace or folder


def save(path: Path, values: Mapping[str, Any]) -> None:
    """Write a configuration's fields to *path* atomically; environment variables as references, since they are secrets."""
    variables = {
        name: text if _REFERENCE.fullmatch(text) or _LATE_REFERENCE.fullmatch(text) else f"${{{name}}}"
        for name, text in values.get("environment_variables", {}).items()
    }
    fields = {**values, "environment_variables": variables} if variables else values
    text = yaml.safe_dump({_ROOT: fields}, sort_keys=False, allow_unicode=True)
    with AtomicFile(path, token=str(os.getpid())) as file:
        file.write(text.encode())


def load(kind: type[Model], path: Path, overrides: Mapping[str, Any] | None = None, where: str = "") -> Model:
    """Return the configuration in *path*, with fields replaced by *overrides*, whose source is *where*.

    A relative source directory, or a script without one, is relative to the current folder, or to the file's folder if it
    exists only there.

    Raises:
        ValueError: The configuration is invalid; names the line, or the field of *overrides*.
    """
    values, locations, left_out, azure_packages, _ = read_fields(path)
    if left_out or azure_packages:
        message = f"{path}: ignoring parts of Azure's environment: {', '.join([*left_out, *azure_packages])}"
        reason = f"; {', '.join(azure_packages)}: {WHY_NO_AZURE}" if azure_packages else ""
        warnings.warn(message + reason, stacklevel=3)
    replaced = {_OLD_NAMES.get(key, key): value for key, value in (overrides or {}).items()}
    values |= replaced
    values |= {key: text for key, text in find_beside(values, path.absolute().parent).items() if key not in replaced}
    locations |= dict.fromkeys(replaced, where)
    if "environment_variables" in values:
        values["environment_variables"] = resolve_variables(values["environment_variables"], locations["environment_variables"])
    return build(kind, values, locations, f"{path}, line 1")


def read_fields(path: Path) -> ParsedConfig:
    """Return the fields in *path* under their current names, not validated; an Azure environment is converted.

    Raises:
        ValueError: The file is not YAML with the one root key; the error names the line.
    """
    document = read_document(path, strict=True)
    if list(document) != [_ROOT]:
        raise ValueError(f"{path}, line 1: expected one root key, {_ROOT}; got {sorted(document)}")
    fields = document.section(_ROOT)
    values = {_OLD_NAMES.get(key, key): plain(value) for key, value in fields.items()}
    locations = {_OLD_NAMES.get(key, key): fields.where(key) for key in fields}
    is_azure = _is_azure_environment(values.get("environment"))
    left_out, azure_packages = _convert_azure_environment(values, locations) if is_azure else ([], [])
    named_environment = {key: values.pop(key) for key in _NAMED_ENVIRONMENT if key in values}
    left_out += [f"{key} {value}" for key, value in named_environment.items() if value is not None]
    return ParsedConfig(values, locations, tuple(left_out), tuple(azure_packages), named_environment)


def resolve_variables(variables: Any, where: str) -> Any:
    """Return environment variables with each reference ``${NAME}`` replaced from this process's environment.

    Raises:
        ValueError: A variable is not set; the error starts with *where*.
    """
    if not isinstance(variables, dict):
        return variables
    resolved = {}
    for name, text in variables.items():
        source = referenced_variable(text)
        if source is not None and source not in os.environ:
            raise ValueError(f"{where}: environment_variables[{name!r}] refers to {source}, which is not set")
        resolved[name] = text if source is None else os.environ[source]
    return resolved


def referenced_variable(text: Any) -> str | None:
    """Return the variable of this process's environment that a value refers to, if any.

    >>> referenced_variable("${MY_TOKEN}"), referenced_variable("secret")
    ('MY_TOKEN', None)
    """
    reference = _REFERENCE.fullmatch(text) if isinstance(text, str) else None
    return None if reference is None else reference[1]


def _is_azure_environment(environment: Any) -> bool:
    """True for a mapping with keys that only Azure has; its ``python`` is a mapping, ours a string."""
    if not isinstance(environment, dict):
        return False
    return isinstance(environment.get("python"), dict) or bool((_AZURE_ENVIRONMENT - {"python"}) & environment.keys())


def _convert_azure_environment(values: dict[str, Any], locations: dict[str, str]) -> tuple[list[str], list[str]]:
    """Convert name, variables, Python version and pip requirements of an Azure environment.

    Returns:
        The ignored parts, and the ignored requirements.
    """
    environment = dict(values["environment"])
    python = environment.get("python") or {}
    conda = python.get("condaDependencies") or {}
    dependencies = conda_dependencies(conda.get("dependencies") or [])
    left_out = [
        key
        for key in sorted(environment.keys() - {"name", "version", "python", "environmentVariables"})
        if environment[key] is not None
    ]
    left_out += [f"conda dependency {entry}" for entry in dependencies.left_out]
    left_out += [f"python.{key}" for key, value in python.items() if key != "condaDependencies" and value is not None]
    left_out += [f"python.condaDependencies.{key}" for key in conda if key not in ("name", "dependencies")]
    if environment.get("environmentVariables"):
        values["environment_variables"] = {**environment["environmentVariables"], **(values.get("environment_variables") or {})}
        locations.setdefault("environment_variables", locations["environment"])
    if python.get("userManagedDependencies") is True:  # the packages of the image; here, the installed packages
        values["environment"] = None
        return left_out, []
    version = {} if dependencies.python is None else {"python": dependencies.python}
    values["environment"] = {"name": environment.get("name"), "requirements": dependencies.requirements, **version}
    return left_out, dependencies.azure_packages


class CondaDependencies(NamedTuple):
    """The parts of a list of conda dependencies that pip and a Python version can express."""

    requirements: list[str]  #: its pip section
    python: str | None  #: such as "3.11"
    left_out: list[str]  #: conda packages
    azure_packages: list[str]  #: packages of the pip section that stand-ins replace


def conda_dependencies(entries: list[Any]) -> CondaDependencies:
    """Return the requirements, Python version and ignored packages of conda dependencies.

    Conda packages are ignored: pip's index may have them under other names, or they may not be Python packages.

    >>> conda_dependencies(["python=3.11", "pip", "numpy=1.26", {"pip": ["pillow"]}])
    CondaDependencies(requirements=['pillow'], python='3.11', left_out=['numpy=1.26'], azure_packages=[])

    The table packages that Azure's packages depend on are required in their place.

    >>> conda_dependencies([{"pip": ["azureml-defaults~=1.5", "azureml-dataset-runtime[pandas,fuse]"]}])[::3]
    (['pandas', 'pyarrow'], ['azureml-defaults~=1.5', 'azureml-dataset-runtime[pandas,fuse]'])
    """
    requirements: list[str] = []
    left_out: list[str] = []
    python = None
    for entry in entries:
        version = _CONDA_PYTHON.fullmatch(str(entry))
        if isinstance(entry, dict) and isinstance(entry.get("pip"), list):
            requirements += [str(requirement) for requirement in entry["pip"]]
        elif version is not None:
            python = version[1]
        elif not re.fullmatch(r"pip\b.*", str(entry)):  # every environment that is built here has pip
            left_out.append(str(entry))
    azure = [line for line in requirements if _REPLACED.fullmatch(line.strip())]
    kept = [line for line in requirements if line not in azure]
    if any("[" in line and "pandas" in line for line in azure):
        names = {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in kept}
        kept += [package for package in ("pandas", "pyarrow") if package not in names]
    return CondaDependencies(kept, python, left_out, azure)
