"""A ParallelRunConfig as Azure's save_to_yaml writes it (version 1): the configuration of a step, without its inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect_parallel_run.azure.differences import Findings
from prefect_parallel_run.azure.imported import ImportedStep, step_name
from prefect_parallel_run.azure.references import References
from prefect_parallel_run.azure.settings import FILE_NAME, source_settings
from prefect_parallel_run.config.model import LOCAL, ParallelRunConfig
from prefect_parallel_run.config.validation import is_address, is_dotted_name
from prefect_parallel_run.config.yaml_file import read_fields

_ENVIRONMENT_WHY = "only name, variables, version of Python and pip requirements of an environment are taken over"


def load_v1(path: Path, references: References) -> ImportedStep:
    """Return the step whose configuration is in *path*; a relative source_directory counts from the file, else from here.

    Raises:
        ValueError: It is no such file, or a field is wrong.
    """
    values, lines, left = read_fields(path)
    unknown = [f"{path}, line {lines.get(key, 1)}: unknown field {key!r}" for key in values if key not in _KNOWN]
    if unknown:
        raise ValueError("\n".join(unknown))
    findings = Findings()
    for name in left:
        findings.left(f"environment.{name}", None, _ENVIRONMENT_WHY)
    fields = {key: value for key, value in values.items() if value is not None}
    fields["compute_target"] = _target(fields.get("compute_target"), references, findings)
    _anchor(fields, path.absolute().parent, findings)
    for key in sorted(fields.keys() - {"compute_target", "source_directory", "environment", "environment_variables"}):
        findings.taken(key, values[key], "the same")
    if isinstance(fields.get("environment"), dict):  # not shown: a requirement may have a password in it
        findings.taken("environment", fields["environment"].get("name"), "an Environment")
    for name in fields.get("environment_variables") or {}:
        findings.taken(f"environment_variables.{name}", None, "the same; its value is written nowhere")
    step = ImportedStep(file=path, name=step_name(path.stem), fields=fields)
    findings.add(source_settings(_without_variables(step)).differences, f"{FILE_NAME} ")
    return ImportedStep(file=path, name=step.name, fields=fields, differences=tuple(findings.found))


_KNOWN = frozenset(ParallelRunConfig.model_fields)


def _without_variables(step: ImportedStep) -> ParallelRunConfig:
    """Return the configuration, validated; variables that are not set here do not matter to those who only look."""
    fields = {key: value for key, value in step.fields.items() if key != "environment_variables"}
    return ImportedStep(file=step.file, name=step.name, fields=fields).config


def _target(given: Any, references: References, findings: Findings) -> Any:
    """Return the compute target: what a person has said, an address or class as it is, else this machine."""
    if not isinstance(given, str) or given == LOCAL:
        return LOCAL if given is None else given
    known = references.known(given) or references.known(f"azureml:{given}")
    if known is not None:
        findings.changed("compute_target", given, known, "as you said")
        return known
    if is_address(given) or is_dotted_name(given) or given.endswith(".json") or "{{" in given:
        findings.taken("compute_target", given, "the same")
        return given
    why = f"the cluster is known in your Azure workspace only; another one: --map {given}=tls://host:8786"
    findings.changed("compute_target", given, "this machine", why)
    return LOCAL


def _anchor(fields: dict[str, Any], folder: Path, findings: Findings) -> None:
    """Have source_directory, or an entry_script without one, count from the file's folder where it is there."""
    key = "source_directory" if fields.get("source_directory") else "entry_script"
    given = fields.get(key)
    if isinstance(given, str) and (folder / given).exists():
        fields[key] = str(folder / given)
        if key == "source_directory":
            findings.taken(key, given, fields[key])
    elif key == "source_directory":
        findings.taken(key, given, "the same")
