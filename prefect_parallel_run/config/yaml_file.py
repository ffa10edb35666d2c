"""ParallelRunConfig as a YAML file: ours, and those that Azure ML's save_to_yaml writes. Every error names the line."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from pydantic import ValidationError

from prefect_parallel_run._atomic import AtomicFile
from prefect_parallel_run.config.script_path import find_beside
from prefect_parallel_run.config.yaml_nodes import UnreadableYamlError, compose

if TYPE_CHECKING:
    from prefect_parallel_run.config.model import ParallelRunConfig

_NAME = re.compile(r"\w+")
_ROOT = "parallel_run_config"
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LATE_REFERENCE = re.compile(r"\{\{\s*prefect\.[^}]*\}\}")
_OLD_NAMES = {"compute_target_name": "compute_target"}
_AZURE_ENVIRONMENT = {"python", "environmentVariables", "docker", "spark", "databricks", "r", "inferencingStackVersion"}
_NAMED_ENVIRONMENT = ("environment_name", "environment_version", "environment_dir_path")
_AMBIGUOUS = {
    "tag:yaml.org,2002:int": (re.compile(r"0|[-+]?[1-9][0-9]*"), "a number with a leading zero, a colon or '_'"),
    "tag:yaml.org,2002:bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), "a word that YAML 1.1 reads as true or false"),
}
#: Requirements whose modules the script's process replaces by stand-ins; a model may need other packages of that kind to load.
_REPLACED = re.compile(
    r"azureml-(core|sdk|defaults|dataset-runtime|dataprep(-native|-rslex)?|telemetry|pipeline(-core|-steps)?|train(-core)?)"
    r"(?![\w-])(.*)",
    re.IGNORECASE,
)
WHY_NO_AZURE = "the script's process has stand-ins for it; add it to requirements if the script needs the real package"
_CONDA_PYTHON = re.compile(r"python\s*={1,2}\s*(3\.(?:9|[1-9][0-9])(?:\.[0-9]+)?)")  # older versions cannot run the script
_MAX_BYTES = 1 << 20


class ParsedConfig(NamedTuple):
    """The fields of a file as plain values, their lines, and the parts of an Azure environment that do not apply here."""

    values: dict[str, Any]
    lines: dict[str, int]
    left_out: tuple[str, ...] = ()
    azure_packages: tuple[str, ...] = ()  #: Azure packages among its requirements, which are ignored
    named: Mapping[str, Any] = MappingProxyType({})  #: fields that refer to an environment in a workspace or folder


def save(config: ParallelRunConfig, path: Path) -> None:
    """Write *config* to *path* atomically."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    values |= {key: getattr(config, key) for key in ("entry_script", "error_threshold", "output_action")}
    variables = {
        name: text if _REFERENCE.fullmatch(text) or _LATE_REFERENCE.fullmatch(text) else f"${{{name}}}"
        for name, text in config.environment_variables.items()
    }
    values.pop("environment_variables", None)
    if variables:
        values["environment_variables"] = variables
    text = yaml.safe_dump({_ROOT: values}, sort_keys=False, allow_unicode=True)
    with AtomicFile(path, token=str(os.getpid())) as file:
        file.write(text.encode())


def load(
    kind: type[ParallelRunConfig], path: Path, overrides: Mapping[str, Any] | None = None, where: str = ""
) -> ParallelRunConfig:
    """Return the configuration in *path*, with fields replaced by *overrides*, whose source is *where*.

    A relative source directory, or a script without one, is relative to the current folder, or to the file's folder if it
    exists only there.

    Raises:
        ValueError: The configuration is invalid; names the line, or the field of *overrides*.
    """
    values, lines, left_out, azure_packages, _ = read_fields(path)
    if left_out or azure_packages:
        message = f"{path}: ignoring parts of Azure's environment: {', '.join([*left_out, *azure_packages])}"
        reason = f"; {', '.join(azure_packages)}: {WHY_NO_AZURE}" if azure_packages else ""
        warnings.warn(message + reason, stacklevel=3)
    replaced = {_OLD_NAMES.get(key, key): value for key, value in (overrides or {}).items()}
    values |= replaced
    values |= {key: text for key, text in _code_paths(values, path).items() if key not in replaced}
    locations = {key: f"{path}, line {lines.get(key, 1)}" for key in values} | dict.fromkeys(replaced, where)
    values["environment_variables"] = _resolve(values.get("environment_variables"), path, lines)
    return build_config(kind, values, locations, f"{path}, line 1")


def build_config(
    kind: type[ParallelRunConfig], values: Mapping[str, Any], locations: Mapping[str, str], root: str
) -> ParallelRunConfig:
    """Return the validated configuration.

    Args:
        kind: Class of the configuration.
        values: Values by field.
        locations: Source location of each value, for errors.
        root: Location for a missing field.

    Raises:
        ValueError: The configuration is invalid; the error names the location and the field.
    """
    unknown = [key for key in values if key not in kind.model_fields]
    if unknown:
        raise ValueError("\n".join(f"{locations[key]}: unknown field {key!r}{_suggestion(key, kind)}" for key in unknown))
    try:
        return kind(**values)
    except ValidationError as error:
        raise ValueError(_with_locations(error, locations, root)) from None


def _code_paths(values: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Return the code path that exists only from the file's folder; validation reports paths that are not strings."""
    script, folder = values.get("entry_script"), values.get("source_directory")
    if not isinstance(script, str) or not isinstance(folder, str | None):
        return {}
    return find_beside(script.strip(), folder or None, path.absolute().parent)


def read_fields(path: Path) -> ParsedConfig:
    """Return the fields in *path* under their current names, not validated; an Azure environment is converted.

    Raises:
        ValueError: The file is not YAML with the one root key; the error names the line.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path}: the file has over {_MAX_BYTES} bytes; expected a configuration file")
    parsed = _read(path)
    values = {_OLD_NAMES.get(key, key): value for key, value in parsed.values.items()}
    lines = {_OLD_NAMES.get(key, key): line for key, line in parsed.lines.items()}
    is_azure = _is_azure_environment(values.get("environment"))
    left_out, azure_packages = _convert_azure_environment(values) if is_azure else ([], [])
    named_environment = {key: values.pop(key) for key in _NAMED_ENVIRONMENT if key in values}
    left_out += [f"{key} {value}" for key, value in named_environment.items() if value is not None]
    return ParsedConfig(values, lines, tuple(left_out), tuple(azure_packages), named_environment)


def value(text: str, where: str) -> Any:
    """Return *text* parsed as a field's value in such a file; raises ValueError that starts with *where*."""
    try:
        node = compose(text, aliases=False)
    except UnreadableYamlError as error:
        raise ValueError(f"{where}: {error.reason}") from None
    return None if node is None else _plain(node, Path(where))


def _suggestion(key: str, kind: type[ParallelRunConfig]) -> str:
    """Return a hint at the most similar field, or an empty string."""
    similar = difflib.get_close_matches(key, kind.model_fields, 1)
    return f"; did you mean {similar[0]}?" if similar else ""


def _with_locations(error: ValidationError, locations: Mapping[str, str], root: str) -> str:
    messages = []
    for part in error.errors(include_url=False, include_input=False, include_context=False):
        message = part["msg"].removeprefix("Value error, ")
        names = _NAME.findall(message)
        # An error about several fields has no field of its own: it is located at the first one that it names.
        field = str(part["loc"][0]) if part["loc"] else next((name for name in names if name in locations), "")
        is_named = not part["loc"] or names[:1] == [field]
        message = f"{field} is missing" if part["type"] == "missing" else message if is_named else f"{field}: {message}"
        messages.append(f"{locations.get(field, root)}: {message}")
    return "\n".join(messages)


def _read(path: Path) -> ParsedConfig:
    """Return the fields under the root key; rejects anchors, tags, duplicate keys and ambiguous YAML 1.1 values."""
    text = path.read_text(encoding="utf-8")
    try:
        document = compose(text, aliases=False)
    except UnreadableYamlError as error:
        raise ValueError(f"{path}, {error}") from None
    root = _entries(document, path) if document is not None else {}
    if list(root) != [_ROOT]:
        raise ValueError(f"{path}, line 1: expected one root key, {_ROOT}; got {sorted(map(str, root))}")
    fields = _entries(root[_ROOT], path)
    values = {key: _plain(node, path) for key, node in fields.items()}
    return ParsedConfig(values, {key: _line(node.start_mark) for key, node in fields.items()})


def _line(mark: Any) -> int:
    return int(mark.line) + 1 if mark is not None else 1


def _entries(node: yaml.Node, path: Path) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{path}, line {_line(node.start_mark)}: expected a mapping")
    entries: dict[str, yaml.Node] = {}
    for key, value in node.value:
        line = _line(key.start_mark)
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise ValueError(f"{path}, line {line}: expected a string as key; put it in quotes")
        if key.value in entries:
            raise ValueError(f"{path}, line {line}: duplicate key {key.value!r}")
        entries[key.value] = value
    return entries


def _plain(node: yaml.Node, path: Path) -> Any:
    """Return a node as plain values."""
    if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
        return {key: _plain(value, path) for key, value in _entries(node, path).items()}
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        return [_plain(value, path) for value in node.value]
    if isinstance(node, yaml.ScalarNode) and node.tag in {f"tag:yaml.org,2002:{kind}" for kind in _SCALARS}:
        return _scalar(node, path)
    raise ValueError(f"{path}, line {_line(node.start_mark)}: unexpected {node.tag}; expected a plain value")


_SCALARS = ("str", "int", "float", "bool", "null")


def _scalar(node: yaml.ScalarNode, path: Path) -> Any:
    expected, description = _AMBIGUOUS.get(node.tag, (None, ""))
    if expected is not None and not expected.fullmatch(node.value):
        line = _line(node.start_mark)
        raise ValueError(f"{path}, line {line}: {node.value} is {description}; write it differently, or put it in quotes")
    if node.tag == "tag:yaml.org,2002:float" and ":" in node.value:
        line = _line(node.start_mark)
        raise ValueError(f"{path}, line {line}: {node.value} is a base-60 number in YAML 1.1; put it in quotes")
    return yaml.SafeLoader("").construct_object(node)


def _resolve(variables: Any, path: Path, lines: dict[str, int]) -> Any:
    """Return environment variables with every ``${NAME}`` replaced from this process's environment."""
    if not isinstance(variables, dict):
        return variables
    resolved = {}
    for name, text in variables.items():
        reference = _REFERENCE.fullmatch(text) if isinstance(text, str) else None
        if reference is not None and reference[1] not in os.environ:
            line = lines.get("environment_variables", 1)
            raise ValueError(f"{path}, line {line}: environment_variables[{name!r}] refers to {reference[1]}, which is not set")
        resolved[name] = os.environ[reference[1]] if reference is not None else text
    return resolved


def _is_azure_environment(environment: Any) -> bool:
    """True for a mapping with keys that only Azure has; its ``python`` is a mapping, ours a string."""
    if not isinstance(environment, dict):
        return False
    return isinstance(environment.get("python"), dict) or bool((_AZURE_ENVIRONMENT - {"python"}) & environment.keys())


def _convert_azure_environment(values: dict[str, Any]) -> tuple[list[str], list[str]]:
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
