"""ParallelRunConfig as a YAML file: ours, and those that Azure ML's save_to_yaml writes. Every complaint names the line."""

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

from prefect_parallel_run.config.script_path import beside
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
_STRANGE = {
    "tag:yaml.org,2002:int": (re.compile(r"0|[-+]?[1-9][0-9]*"), "a number with a leading zero, a colon or '_'"),
    "tag:yaml.org,2002:bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), "a word that YAML 1.1 takes for true or false"),
}
#: Requirements whose modules the script's process has stand-ins for; other packages of that kind may be needed to load a model.
_STOOD_IN_FOR = re.compile(
    r"azureml-(core|sdk|defaults|dataset-runtime|dataprep(-native|-rslex)?|telemetry|pipeline(-core|-steps)?|train(-core)?)"
    r"(?![\w-])(.*)",
    re.IGNORECASE,
)
WHY_NO_AZURE = "the script's process has stand-ins for it; name it in requirements where the script needs the real one"
_CONDA_PYTHON = re.compile(r"python\s*={1,2}\s*(3\.(?:9|[1-9][0-9])(?:\.[0-9]+)?)")  # older ones cannot run the script
_MOST_BYTES = 1 << 20


class ParsedConfig(NamedTuple):
    """The fields in a file as plain values, the line of each, and what of an Azure environment has no place here."""

    values: dict[str, Any]
    lines: dict[str, int]
    left: tuple[str, ...] = ()
    stood_in_for: tuple[str, ...] = ()  #: of its requirements, packages of Azure's that are left out
    named: Mapping[str, Any] = MappingProxyType({})  #: fields that name an environment in a workspace, or a folder with one


def save(config: ParallelRunConfig, path: Path) -> None:
    """Write *config* to *path*, beside it first, then renamed into place."""
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
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def load(
    kind: type[ParallelRunConfig], path: Path, others: Mapping[str, Any] | None = None, where: str = ""
) -> ParallelRunConfig:
    """Return the configuration in *path*, with *others*, which were given *where*, in the place of its fields.

    A relative source directory, or script without one, counts from the current folder, and from that of the file where it is
    not there.

    Raises:
        ValueError: Something is wrong; names the line, or the field of *others*.
    """
    values, lines, left, stood_in_for, _ = read_fields(path)
    if left or stood_in_for:
        words = f"{path}: of Azure's environment these are left out: {', '.join([*left, *stood_in_for])}"
        why = f"; of {', '.join(stood_in_for)}: {WHY_NO_AZURE}" if stood_in_for else ""
        warnings.warn(words + why, stacklevel=3)
    replaced = {_OLD_NAMES.get(key, key): value for key, value in (others or {}).items()}
    values |= replaced
    values |= {key: text for key, text in _beside(values, path).items() if key not in replaced}
    places = {key: f"{path}, line {lines.get(key, 1)}" for key in values} | dict.fromkeys(replaced, where)
    values["environment_variables"] = _resolve(values.get("environment_variables"), path, lines)
    return validated(kind, values, places, f"{path}, line 1")


def validated(
    kind: type[ParallelRunConfig], values: Mapping[str, Any], places: Mapping[str, str], whole: str
) -> ParallelRunConfig:
    """Return the configuration that *values* make.

    Args:
        kind: Of configuration.
        values: By field.
        places: Where each of them stands.
        whole: Where a field that is not there would stand.

    Raises:
        ValueError: Something is wrong; the error names the place and the field.
    """
    unknown = [key for key in values if key not in kind.model_fields]
    if unknown:
        raise ValueError("\n".join(f"{places[key]}: unknown field {key!r}{_meant(key, kind)}" for key in unknown))
    try:
        return kind(**values)
    except ValidationError as error:
        raise ValueError(_with_places(error, places, whole)) from None


def _beside(values: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Return the paths to the code that are there from the file's folder only; those that are no texts are told later."""
    script, folder = values.get("entry_script"), values.get("source_directory")
    if not isinstance(script, str) or not isinstance(folder, str | None):
        return {}
    return beside(script.strip(), folder or None, path.absolute().parent)


def read_fields(path: Path) -> ParsedConfig:
    """Return the fields in *path* under the names they have here, not validated; an Azure environment is made one of ours.

    Raises:
        ValueError: It is not a YAML file with the one root key; the error names the line.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path}: over {_MOST_BYTES} bytes; that is no configuration")
    read = _read(path)
    values = {_OLD_NAMES.get(key, key): value for key, value in read.values.items()}
    lines = {_OLD_NAMES.get(key, key): line for key, line in read.lines.items()}
    is_azures = _is_azure_environment(values.get("environment"))
    left, stood_in_for = _take_azure_environment(values) if is_azures else ([], [])
    named = {key: values.pop(key) for key in _NAMED_ENVIRONMENT if key in values}
    left += [f"{key} {value}" for key, value in named.items() if value is not None]
    return ParsedConfig(values, lines, tuple(left), tuple(stood_in_for), named)


def value(text: str, where: str) -> Any:
    """Return what *text* stands for as the value of a field in such a file; raises ValueError that begins with *where*."""
    try:
        node = compose(text, aliases=False)
    except UnreadableYamlError as error:
        raise ValueError(f"{where}: {error.reason}") from None
    return None if node is None else _plain(node, Path(where))


def _meant(key: str, kind: type[ParallelRunConfig]) -> str:
    """Return a hint at the field that was probably meant, or an empty text."""
    close = difflib.get_close_matches(key, kind.model_fields, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _with_places(error: ValidationError, places: Mapping[str, str], whole: str) -> str:
    said = []
    for part in error.errors(include_url=False, include_input=False, include_context=False):
        words = part["msg"].removeprefix("Value error, ")
        named = _NAME.match(words)  # what fields are together is told by a sentence that begins with the name of one
        field = str(part["loc"][0]) if part["loc"] else named[0] if named is not None else ""
        is_named = not field or (named is not None and named[0] == field)
        words = f"{field} is missing" if part["type"] == "missing" else words if is_named else f"{field}: {words}"
        said.append(f"{places.get(field, whole)}: {words}")
    return "\n".join(said)


def _read(path: Path) -> ParsedConfig:
    """Return what stands under the root key; anchors, tags, duplicate keys and YAML 1.1 surprises are refused."""
    text = path.read_text(encoding="utf-8")
    try:
        document = compose(text, aliases=False)
    except UnreadableYamlError as error:
        raise ValueError(f"{path}, {error}") from None
    root = _entries(document, path) if document is not None else {}
    if list(root) != [_ROOT]:
        raise ValueError(f"{path}, line 1: the file has one root key, {_ROOT}; found {sorted(map(str, root))}")
    fields = _entries(root[_ROOT], path)
    values = {key: _plain(node, path) for key, node in fields.items()}
    return ParsedConfig(values, {key: _line(node.start_mark) for key, node in fields.items()})


def _line(mark: Any) -> int:
    return int(mark.line) + 1 if mark is not None else 1


def _entries(node: yaml.Node, path: Path) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{path}, line {_line(node.start_mark)}: a mapping is expected here")  # noqa: TRY004  a file's value
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        line = _line(key.start_mark)
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise ValueError(f"{path}, line {line}: a key must be a text; put it in quotes")
        if key.value in found:
            raise ValueError(f"{path}, line {line}: the key {key.value!r} stands here twice")
        found[key.value] = value
    return found


def _plain(node: yaml.Node, path: Path) -> Any:
    """Return a node as plain values."""
    if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
        return {key: _plain(value, path) for key, value in _entries(node, path).items()}
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        return [_plain(value, path) for value in node.value]
    if isinstance(node, yaml.ScalarNode) and node.tag in {f"tag:yaml.org,2002:{kind}" for kind in _SCALARS}:
        return _scalar(node, path)
    raise ValueError(f"{path}, line {_line(node.start_mark)}: {node.tag} is not accepted; only plain values are")


_SCALARS = ("str", "int", "float", "bool", "null")


def _scalar(node: yaml.ScalarNode, path: Path) -> Any:
    expected, words = _STRANGE.get(node.tag, (None, ""))
    if expected is not None and not expected.fullmatch(node.value):
        line = _line(node.start_mark)
        raise ValueError(f"{path}, line {line}: {node.value} is {words}; write it plainly, or put it in quotes")
    if node.tag == "tag:yaml.org,2002:float" and ":" in node.value:
        line = _line(node.start_mark)
        raise ValueError(f"{path}, line {line}: {node.value} is a number in base 60 to YAML 1.1; write it plainly")
    return yaml.SafeLoader("").construct_object(node)


def _resolve(variables: Any, path: Path, lines: dict[str, int]) -> Any:
    """Return environment variables with every ``${NAME}`` replaced by what this process's environment says."""
    if not isinstance(variables, dict):
        return variables
    found = {}
    for name, text in variables.items():
        reference = _REFERENCE.fullmatch(text) if isinstance(text, str) else None
        if reference is not None and reference[1] not in os.environ:
            line = lines.get("environment_variables", 1)
            raise ValueError(f"{path}, line {line}: environment_variables[{name!r}] refers to {reference[1]}, which is not set")
        found[name] = os.environ[reference[1]] if reference is not None else text
    return found


def _is_azure_environment(given: Any) -> bool:
    """True for a mapping with keys that only Azure has; its ``python`` is a mapping, ours a text."""
    if not isinstance(given, dict):
        return False
    return isinstance(given.get("python"), dict) or bool((_AZURE_ENVIRONMENT - {"python"}) & given.keys())


def _take_azure_environment(values: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Read name, variables, Python's version and pip requirements of an Azure environment.

    Returns:
        What is left out, and the requirements that are.
    """
    given = dict(values["environment"])
    python = given.get("python") or {}
    conda = python.get("condaDependencies") or {}
    found = conda_dependencies(conda.get("dependencies") or [])
    left = [
        key for key in sorted(given.keys() - {"name", "version", "python", "environmentVariables"}) if given[key] is not None
    ]
    left += [f"conda dependency {entry}" for entry in found.left]
    left += [f"python.{key}" for key, value in python.items() if key != "condaDependencies" and value is not None]
    left += [f"python.condaDependencies.{key}" for key in conda if key not in ("name", "dependencies")]
    if given.get("environmentVariables"):
        values["environment_variables"] = {**given["environmentVariables"], **(values.get("environment_variables") or {})}
    if python.get("userManagedDependencies") is True:  # what the image brings along; here, what is installed
        values["environment"] = None
        return left, []
    version = {} if found.python is None else {"python": found.python}
    values["environment"] = {"name": given.get("name"), "requirements": found.requirements, **version}
    return left, found.azure


class CondaDependencies(NamedTuple):
    """What a list of conda dependencies asks for, as far as pip and a version of Python can say it."""

    requirements: list[str]  #: of its pip section
    python: str | None  #: such as "3.11"
    left: list[str]  #: packages of conda's own
    azure: list[str]  #: of the pip section, packages of Azure's that are stood in for


def conda_dependencies(entries: list[Any]) -> CondaDependencies:
    """Return what conda dependencies ask for.

    Packages of conda are left out: they may have other names on an index of pip, or be no Python at all.

    >>> conda_dependencies(["python=3.11", "pip", "numpy=1.26", {"pip": ["pillow"]}])
    CondaDependencies(requirements=['pillow'], python='3.11', left=['numpy=1.26'], azure=[])

    What Azure's packages bring along for tables is asked for in their place.

    >>> conda_dependencies([{"pip": ["azureml-defaults~=1.5", "azureml-dataset-runtime[pandas,fuse]"]}])[::3]
    (['pandas', 'pyarrow'], ['azureml-defaults~=1.5', 'azureml-dataset-runtime[pandas,fuse]'])
    """
    requirements: list[str] = []
    left: list[str] = []
    python = None
    for entry in entries:
        version = _CONDA_PYTHON.fullmatch(str(entry))
        if isinstance(entry, dict) and isinstance(entry.get("pip"), list):
            requirements += [str(requirement) for requirement in entry["pip"]]
        elif version is not None:
            python = version[1]
        elif not re.fullmatch(r"pip\b.*", str(entry)):  # an environment that is built here has it anyway
            left.append(str(entry))
    azure = [line for line in requirements if _STOOD_IN_FOR.fullmatch(line.strip())]
    kept = [line for line in requirements if line not in azure]
    if any("[" in line and "pandas" in line for line in azure):
        named = {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in kept}
        kept += [package for package in ("pandas", "pyarrow") if package not in named]
    return CondaDependencies(kept, python, left, azure)
