"""A ParallelRunConfig as Azure's save_to_yaml writes it (version 1): the configuration of a step, without its inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.azureml.job_fields import tell_variables
from prefect_parallel_run.azureml.references import References, you_said
from prefect_parallel_run.azureml.settings import FILE_NAME, source_settings
from prefect_parallel_run.azureml.step import ImportedStep, step_name
from prefect_parallel_run.config.model import LOCAL, ParallelRunConfig
from prefect_parallel_run.config.script_path import find_beside
from prefect_parallel_run.config.validation import names_a_cluster
from prefect_parallel_run.config.yaml_file import WHY_NO_AZURE, ParsedConfig, build_config, read_fields

_ENVIRONMENT_WHY = (
    "of an environment name, variables, version of Python and pip requirements are taken over; packages of conda come in with"
    " Environment(conda_file=…)"
)
_WITHOUT_INPUTS = "this file says nothing of them: pass them to the step"


def load_v1(path: Path, references: References) -> ImportedStep:
    """Return the step whose configuration is in *path*; a relative source_directory counts from here, else from the file.

    Raises:
        ValueError: It is no such file, or a field is wrong; the error names file, line and field.
    """
    read = read_fields(path)
    values = read.values
    findings = MigrationFindings()
    findings.left("inputs, side_inputs, arguments, output", None, _WITHOUT_INPUTS)
    _environment(read, references, findings)
    fields = {key: value for key, value in values.items() if value is not None}
    fields["compute_target"] = _target(fields.get("compute_target"), references, findings)
    _anchor(fields, path.absolute().parent, findings)
    for key in sorted(fields.keys() - {"compute_target", "source_directory", "environment", "environment_variables"}):
        findings.taken(key, values[key], "the same")
    if isinstance(fields.get("environment"), dict):  # not shown: a requirement may have a password in it
        findings.taken("environment", fields["environment"].get("name"), "an Environment")
    places = {key: f"{path}, line {read.lines.get(key, 1)}" for key in fields}
    config = build_config(ParallelRunConfig, fields, places, f"{path}, line 1")
    tell_variables(config.environment_variables, findings)
    findings.add(source_settings(config).differences, f"{FILE_NAME} ")
    return ImportedStep(file=path, name=step_name(path.stem), fields=fields, differences=tuple(findings.found))


def _environment(read: ParsedConfig, references: References, findings: MigrationFindings) -> None:
    """Put a place that a person has given the environment into *read*, or say what is left out of it."""
    given = read.values.get("environment")
    name = read.named.get("environment_name") or (given.get("name") if isinstance(given, dict) else None)
    place = None if name is None else references.known(str(name)) or references.known(f"azureml:{name}")
    if place is not None:
        read.values["environment"] = place
        findings.changed("environment", name, place, you_said(place))
        return
    if left := [entry for entry in read.left if entry.partition(" ")[0] not in read.named]:
        findings.left(f"environment: {', '.join(left)}", None, _ENVIRONMENT_WHY)
    if read.stood_in_for:
        findings.left(f"environment: {', '.join(read.stood_in_for)}", None, WHY_NO_AZURE)
    for key, value in read.named.items():
        if value is not None:
            why = "it is known in your Azure workspace only; a virtual environment, or an interpreter"
            if key == "environment_dir_path":
                why = "say with Environment(requirements=[…]) or Environment(conda_file=…) what it holds"
            findings.left(key, value, why)


def _target(given: Any, references: References, findings: MigrationFindings) -> Any:
    """Return the compute target: what a person has said, an address or class as it is, else this machine."""
    if not isinstance(given, str) or given == LOCAL:
        return LOCAL if given is None else given
    known = references.known(given) or references.known(f"azureml:{given}")
    if known is not None:
        findings.changed("compute_target", given, known, "as you said")
        return known
    if names_a_cluster(given):
        findings.taken("compute_target", given, "the same")
        return given
    why = "the cluster is known in your Azure workspace only; another one, such as tls://host:8786"
    findings.changed("compute_target", given, "this machine", why, given)
    return LOCAL


def _anchor(fields: dict[str, Any], folder: Path, findings: MigrationFindings) -> None:
    """Have source_directory, or an entry_script without one, count from the file's folder where only that leads to it."""
    script, given = fields.get("entry_script"), fields.get("source_directory")
    if not isinstance(script, str) or not isinstance(given, str | None):
        return  # a wrong value, which is told with its line
    fields |= find_beside(script, given, folder)
    if given is None:
        return
    here = fields["source_directory"]
    if here == given and not _same(given, folder):
        why = f"it counts from the current folder; there is another one beside the file, in {folder}"
        findings.changed("source_directory", given, str(Path(given).resolve()), why)
    else:
        findings.taken("source_directory", given, "the same" if here == given else here)


def _same(given: str, folder: Path) -> bool:
    """False when there is one from here, and another one from *folder*."""
    return not (folder / given).is_dir() or Path(given).resolve() == (folder / given).resolve()
