"""The fields of a parallel job that are fields of a ParallelRunConfig here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect_parallel_run.azureml.arguments import program_arguments
from prefect_parallel_run.azureml.documents import Section
from prefect_parallel_run.azureml.environment import job_environment
from prefect_parallel_run.azureml.expressions import Input
from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.azureml.outputs import Outputs
from prefect_parallel_run.azureml.references import References
from prefect_parallel_run.azureml.step import variable_asked_for
from prefect_parallel_run.config.model import LOCAL

#: Fields of a job that are read elsewhere below.
_READ = {
    *("$schema", "type", "name", "component", "task", "inputs", "outputs", "input_data", "compute", "description"),
    *("mini_batch_size", "partition_keys", "mini_batch_error_threshold", "error_threshold", "retry_settings", "resources"),
    *("max_concurrency_per_instance", "logging_level", "environment_variables", "is_deterministic"),
}
_TASK_READ = {"type", "code", "entry_script", "environment", "program_arguments", "append_row_to"}
#: Why fields of a job, or of a pipeline, have no place here.
WHY_LEFT = {
    "display_name": "the step's name is shown",
    "experiment_name": "Prefect has flows instead of experiments",
    "tags": "ParallelRunStep(…, tags=[…]) gives Prefect's task run tags",
    "identity": "the script runs as the user who runs the flow",
    "limits": "Prefect's timeout_seconds of the flow does this",
    "version": "the file is what it is",
    "properties": "ParallelRunStep(…, tags=[…]) gives Prefect's task run tags",
    "services": "nothing is served while a step runs; Prefect's page and the report show it",
    "queue_settings": "Prefect's work pools and queues do this",
    "compute": "where a step runs says its compute_target",
    "schedule": "a deployment of the flow in Prefect has schedules",
    "is_deterministic": "each job of a pipeline says it for itself",
}
WHY_SETTING_LEFT = {
    "continue_on_step_failure": "a step that fails is an exception in the flow: catch it where the flow should go on",
    "continue_run_on_failed_optional_input": "a step that fails is an exception in the flow: catch it where it should go on",
    "default_datastore": "outputs lie where the step's output says",
    "on_init": "call it first in the flow",
    "on_finalize": "a state hook of Prefect's does this: @flow(on_completion=[…], on_failure=[…])",
}
_WHY_RESOURCE_LEFT = {
    "properties": "no containers or queues of Azure's here",
    "shm_size": "no containers here: the script runs in a process of the node",
    "docker_args": "no containers here: the script runs in a process of the node",
}


def job_fields(
    section: Section,
    inputs: Mapping[str, Input],
    split: str,
    outputs: Outputs,
    references: References,
    findings: MigrationFindings,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of the configuration, and the script's arguments; literals are filled into *section*."""
    task = section.section("task")
    fields: dict[str, Any] = {"output_action": "append_row" if outputs.appends else "summary_only"}
    findings.taken("input_data", section.get("input_data"), f"inputs: {split}")
    findings.taken("task.append_row_to", task.get("append_row_to"), f"output_action={fields['output_action']!r}")
    if outputs.append_row_file_name is not None:
        fields["append_row_file_name"] = outputs.append_row_file_name
    _script(task, fields, references, findings)
    environment = job_environment(task, references, findings)
    if environment is not None:
        fields["environment"] = environment
    _numbers(section, fields, findings)
    _variables(section, fields, findings)
    _target(section, fields, references, findings)
    given = str(task.get("program_arguments") or "")
    found = program_arguments(given, inputs, split, outputs, findings)
    for key in sorted(fields.keys() & found.options.fields.keys()):
        if fields[key] != found.options.fields[key]:
            why = "the one in program_arguments counts, which comes last on the command line of Azure's driver"
            findings.changed(key, fields[key], f"{key}={found.options.fields[key]!r}", why)
    fields |= found.options.fields
    findings.add(found.options.differences, "task.program_arguments ")
    fields.setdefault("error_threshold", -1)  # as in Azure
    for key in sorted(section.keys() - _READ):
        findings.left(key, section[key], WHY_LEFT.get(key, "it is a note of Azure's own"))
    for key in sorted(task.keys() - _TASK_READ):
        findings.left(f"task.{key}", task[key], "a script is what is run here")
    return fields, found.arguments


def _script(task: Section, fields: dict[str, Any], references: References, findings: MigrationFindings) -> None:
    script = task.get("entry_script")
    if not isinstance(script, str):
        raise ValueError(f"{task.where('entry_script')}: entry_script is {script!r}; accepted: a path below code")  # noqa: TRY004  a file's value
    folder = task.file.absolute().parent
    code = task.get("code")
    if code is None:
        fields["entry_script"] = str(folder / script)
        findings.taken("task.entry_script", script, fields["entry_script"])
        return
    place = references.place(str(code), folder, "task.code", findings)
    fields["entry_script"] = script
    findings.taken("task.entry_script", script, f"entry_script={script!r}")
    if place is not None:
        fields["source_directory"] = place
        findings.taken("task.code", code, f"source_directory={place!r}")


def _numbers(section: Section, fields: dict[str, Any], findings: MigrationFindings) -> None:
    """Take over what has a field of the same kind."""
    retry, resources = section.section("retry_settings"), section.section("resources")
    for owner, prefix, key, field in (
        (section, "", "error_threshold", "error_threshold"),
        (section, "", "mini_batch_error_threshold", "allowed_failed_count"),
        (section, "", "max_concurrency_per_instance", "process_count_per_node"),
        (resources, "resources.", "instance_count", "node_count"),
        (retry, "retry_settings.", "timeout", "run_invocation_timeout"),
        (retry, "retry_settings.", "max_retries", "run_max_try"),
    ):
        value = _number(owner, key)
        if value is not None:
            fields[field] = value + (key == "max_retries")
            findings.taken(f"{prefix}{key}", value, f"{field}={fields[field]}")
    for key in sorted(resources.keys() - {"instance_count"}):
        why = _WHY_RESOURCE_LEFT.get(key, "machines are what the compute target has")
        findings.left(f"resources.{key}", resources[key], why)
    if section.get("logging_level") is not None:
        fields["logging_level"] = str(section["logging_level"])
        findings.taken("logging_level", fields["logging_level"], "the same")
    if section.get("description") is not None:
        fields["description"] = str(section["description"]).strip()
        findings.taken("description", None, "the same")
    _size(section, fields, findings)


def _size(section: Section, fields: dict[str, Any], findings: MigrationFindings) -> None:
    keys, size = section.get("partition_keys"), section.get("mini_batch_size")
    if keys is not None:
        fields["partition_keys"] = [str(key) for key in keys] if isinstance(keys, list) else keys
        findings.taken("partition_keys", ", ".join(map(str, fields["partition_keys"])), "the same")
    if size is not None and keys is not None:
        findings.left("mini_batch_size", size, "partition_keys take effect, as in Azure")
    elif size is not None:
        fields["mini_batch_size"] = str(size).replace(" ", "")  # told where it is known what it counts


def _number(owner: Section, key: str) -> int | None:
    value = owner.get(key)
    if value is None:
        return None
    try:
        number = int(str(value))
    except ValueError:
        raise owner.wrong(key, "a whole number") from None
    return number


def _variables(section: Section, fields: dict[str, Any], findings: MigrationFindings) -> None:
    given = section.section("environment_variables")
    found = {name: "" if value is None else str(value) for name, value in given.items()}
    tell_variables(found, findings)
    if found:
        fields["environment_variables"] = found


def tell_variables(variables: Mapping[str, str], findings: MigrationFindings) -> None:
    """Note that the Python which is printed asks the environment for these variables' values."""
    for name, text in variables.items():
        asked = variable_asked_for(name, text)
        why = f"values are secrets, and are not printed: set {asked} before that Python runs"
        findings.changed(f"environment_variables.{name}", None, f"the environment's {asked}", why)


def _target(section: Section, fields: dict[str, Any], references: References, findings: MigrationFindings) -> None:
    given = section.get("compute")
    if given is None or given == LOCAL:
        return
    known = references.known(str(given))
    if known is not None:
        fields["compute_target"] = known
        findings.changed("compute", given, known, "as you said")
    else:
        why = "the cluster is known in your Azure workspace only; another one, such as tls://host:8786"
        findings.changed("compute", given, "this machine", why, str(given))
