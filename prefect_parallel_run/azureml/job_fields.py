"""Converts the fields of a parallel job to those of a ParallelRunConfig, its environment and its arguments included.

Only the packages of an environment are converted: containers are left out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.azureml.job_data import Outputs
from prefect_parallel_run.azureml.known_fields import ENVIRONMENT, PARALLEL, RESOURCES, TASK
from prefect_parallel_run.azureml.references import EXPRESSION, Data, Input, Literal, Migration, Missing, mapping_note
from prefect_parallel_run.azureml.settings import Translation, job_options
from prefect_parallel_run.config.model import LOCAL
from prefect_parallel_run.config.validation import parse_keys
from prefect_parallel_run.config.yaml_file import WHY_NO_AZURE, CondaDependencies, conda_dependencies, referenced_variable
from prefect_parallel_run.config.yaml_reader import Section, read_document

WHY_NO_TARGET = "only your Azure workspace can resolve the cluster; another one, such as tls://host:8786"
_ARGUMENTS = "task.program_arguments"
_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)
_PLACEHOLDER = re.compile(r"\{(?:output|(?:inputs|side_inputs)\.\w+)\}")
#: Numbers of a job: section, field, and the field here.
_NUMBERS = (
    ("", "error_threshold", "error_threshold"),
    ("", "mini_batch_error_threshold", "allowed_failed_count"),
    ("", "max_concurrency_per_instance", "process_count_per_node"),
    ("resources", "instance_count", "node_count"),
    ("retry_settings", "timeout", "run_invocation_timeout"),
    ("retry_settings", "max_retries", "run_max_try"),
)
_FIELD = "task.environment"
_CONDA = f"{_FIELD}.conda_file"
_ELSE = "a virtual environment, or an interpreter"  #: alternatives to map the environment to


def job_fields(
    section: Section, inputs: Mapping[str, Input], split: str, outputs: Outputs, migration: Migration
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of the configuration, and the script's arguments."""
    task = section.section("task")
    fields: dict[str, Any] = {"output_action": "append_row" if outputs.appends else "summary_only"}
    migration.taken("input_data", section.get("input_data"), f"inputs: {split}")
    migration.taken("task.append_row_to", task.get("append_row_to"), f"output_action={fields['output_action']!r}")
    if outputs.append_row_file_name is not None:
        fields["append_row_file_name"] = outputs.append_row_file_name
    _script(task, fields, migration)
    environment = job_environment(task, migration)
    if environment is not None:
        fields["environment"] = environment
    _numbers(section, fields, migration)
    _texts(section, fields, migration)
    _size(section, fields, migration)
    _target(section, fields, migration)
    options, arguments = program_arguments(str(task.get("program_arguments") or ""), inputs, split, outputs, migration)
    for key in sorted(fields.keys() & options.fields.keys()):
        if fields[key] != options.fields[key]:
            why = "program_arguments take precedence: they come last on the command line of Azure's driver"
            migration.changed(key, fields[key], f"{key}={options.fields[key]!r}", why)
    migration.add(options.differences, f"{_ARGUMENTS} ")
    migration.left_out_of(section, PARALLEL)
    migration.left_out_of(task, TASK, "task.")
    return {"error_threshold": -1, **fields, **options.fields}, arguments  # -1: as in Azure


def _script(task: Section, fields: dict[str, Any], migration: Migration) -> None:
    script, code = task.get("entry_script"), task.get("code")
    if not isinstance(script, str):
        raise task.error("entry_script", "a path below code")
    folder = task.file.absolute().parent
    if code is None:
        fields["entry_script"] = str(folder / script)
        migration.taken("task.entry_script", script, fields["entry_script"])
        return
    location = migration.resolve(str(code), folder, "task.code")
    fields["entry_script"] = script
    migration.taken("task.entry_script", script, f"entry_script={script!r}")
    if location is not None:
        fields["source_directory"] = location
        migration.taken("task.code", code, f"source_directory={location!r}")


def _numbers(section: Section, fields: dict[str, Any], findings: MigrationFindings) -> None:
    for name, key, field in _NUMBERS:
        owner = section.section(name) if name else section
        if owner.get(key) is None:
            continue
        try:
            value = int(str(owner[key]))
        except ValueError:
            raise owner.error(key, "an integer") from None
        fields[field] = value + (key == "max_retries")
        findings.taken(f"{name}.{key}" if name else key, value, f"{field}={fields[field]}")
    findings.left_out_of(section.section("resources"), RESOURCES, "resources.")


def _texts(section: Section, fields: dict[str, Any], findings: MigrationFindings) -> None:
    if section.get("logging_level") is not None:
        fields["logging_level"] = str(section["logging_level"])
        findings.taken("logging_level", fields["logging_level"], "the same")
    if section.get("description") is not None:
        fields["description"] = str(section["description"]).strip()
        findings.taken("description", None, "the same")
    variables = {name: "" if value is None else str(value) for name, value in section.section("environment_variables").items()}
    report_variables(variables, findings)
    if variables:
        fields["environment_variables"] = variables


def _size(section: Section, fields: dict[str, Any], findings: MigrationFindings) -> None:
    keys, size = section.get("partition_keys"), section.get("mini_batch_size")
    if keys is not None:
        keys = parse_keys(keys) if isinstance(keys, str) else keys
        if not isinstance(keys, list):
            raise section.error("partition_keys", "a list of key names, or a JSON array of them in a string")
        fields["partition_keys"] = [str(key) for key in keys]
        findings.taken("partition_keys", ", ".join(fields["partition_keys"]), "the same")
    if size is not None and keys is not None:
        findings.left_out("mini_batch_size", size, "partition_keys take effect, as in Azure")
    elif size is not None:
        fields["mini_batch_size"] = str(size).replace(" ", "")  # reported later, when the unit is known


def report_variables(variables: Mapping[str, str], findings: MigrationFindings) -> None:
    """Record that the generated Python reads the values of these variables from the environment."""
    for name, text in variables.items():
        source = referenced_variable(text) or name
        why = f"values are secrets, so they are not printed: set {source} before running the generated Python"
        findings.changed(f"environment_variables.{name}", None, f"the environment's {source}", why)


def _target(section: Section, fields: dict[str, Any], migration: Migration) -> None:
    compute = section.get("compute")
    if compute is None or compute == LOCAL:
        return
    known = migration.references.known(str(compute))
    if known is not None:
        fields["compute_target"] = known
        migration.changed("compute", compute, known, "as specified")
    else:
        migration.changed("compute", compute, "this machine", WHY_NO_TARGET, str(compute))


def program_arguments(
    text: str, inputs: Mapping[str, Input], split: str, outputs: Outputs, findings: MigrationFindings
) -> tuple[Translation, tuple[str, ...]]:
    """Return the options for Azure's driver in a job's arguments, translated, and the script's arguments.

    Args:
        text: The field's text; a part in ``$[[…]]`` applies only if all inputs in it have values.
        inputs: The job's inputs, by name.
        split: Name of the input that is split into mini-batches.
        outputs: The job's outputs.
        findings: Receives the differences.

    Raises:
        ValueError: The text refers to an unknown input or output, has an unclosed quote, or an option with an invalid value.
    """
    text = _OPTIONAL.sub(lambda match: match[1] if _have_values(match[1], inputs) else "", text)
    try:  # without blanks in expressions, each stays one word
        words = shlex.split(EXPRESSION.sub(lambda match: f"${{{{{match[1]}}}}}", text))
    except ValueError as error:
        raise ValueError(f"{_ARGUMENTS}: {error}: {text!r}") from None
    for word in words:
        if ours := _PLACEHOLDER.search(EXPRESSION.sub("", word)):
            findings.open(_ARGUMENTS, word, f"{ours[0]} is a placeholder here: the script would receive a path instead")
    arguments = [EXPRESSION.sub(lambda match: _value(match[1], inputs, split, outputs), word) for word in words]
    options, rest = job_options(arguments)
    return options, tuple(rest)


def _have_values(text: str, inputs: Mapping[str, Input]) -> bool:
    names = (match[1].removeprefix("inputs.") for match in EXPRESSION.finditer(text) if match[1].startswith("inputs."))
    return all(inputs.get(name) is not None for name in names)


def _value(inside: str, inputs: Mapping[str, Input], split: str, outputs: Outputs) -> str:
    kind, _, name = inside.partition(".")
    if kind == "outputs" and name in outputs.places:
        return outputs.places[name]
    value = inputs.get(name) if kind == "inputs" else None
    if isinstance(value, Literal):
        return value.text
    if isinstance(value, Missing):
        return value.reference
    if isinstance(value, Data):
        return f"{{{'inputs' if name == split else 'side_inputs'}.{name}}}"
    known = ", ".join([*(f"inputs.{key}" for key in inputs), *(f"outputs.{key}" for key in outputs.places)]) or "none"
    raise ValueError(f"{_ARGUMENTS}: ${{{{{inside}}}}} is unknown; expected one of: {known}")


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
    migration.left_out_of(environment, ENVIRONMENT, f"{_FIELD}.")
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
