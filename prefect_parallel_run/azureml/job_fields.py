"""Converts the fields of a parallel job to those of a ParallelRunConfig."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect_parallel_run.azureml.arguments import program_arguments
from prefect_parallel_run.azureml.environment import job_environment
from prefect_parallel_run.azureml.expressions import Input
from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.azureml.outputs import Outputs
from prefect_parallel_run.azureml.references import References
from prefect_parallel_run.config.model import LOCAL
from prefect_parallel_run.config.validation import parse_keys
from prefect_parallel_run.config.yaml_file import referenced_variable
from prefect_parallel_run.config.yaml_reader import Section

#: Fields of a job that are converted below or in other modules.
_READ = {
    *("$schema", "type", "name", "component", "task", "inputs", "outputs", "input_data", "compute", "description"),
    *("mini_batch_size", "partition_keys", "mini_batch_error_threshold", "error_threshold", "retry_settings", "resources"),
    *("max_concurrency_per_instance", "logging_level", "environment_variables", "is_deterministic"),
}
_TASK_READ = {"type", "code", "entry_script", "environment", "program_arguments", "append_row_to"}
#: Reasons why fields of a job or pipeline are left out.
WHY_LEFT = {
    "display_name": "the step's name is displayed instead",
    "experiment_name": "Prefect has flows instead of experiments",
    "tags": "ParallelRunStep(…, tags=[…]) gives Prefect's task run tags",
    "identity": "the script runs as the user who runs the flow",
    "limits": "Prefect's timeout_seconds of the flow does this",
    "version": "files are not versioned here",
    "properties": "ParallelRunStep(…, tags=[…]) gives Prefect's task run tags",
    "services": "a running step has no services; see Prefect's page and the report",
    "queue_settings": "Prefect's work pools and queues do this",
    "compute": "the step's compute_target determines where it runs",
    "schedule": "a deployment of the flow in Prefect has schedules",
    "is_deterministic": "it is read from each job of the pipeline",
}
WHY_SETTING_LEFT = {
    "continue_on_step_failure": "a failed step raises in the flow: catch the exception to continue",
    "continue_run_on_failed_optional_input": "a failed step raises in the flow: catch the exception to continue",
    "default_datastore": "the step's output determines where outputs are",
    "on_init": "call it first in the flow",
    "on_finalize": "a state hook of Prefect's does this: @flow(on_completion=[…], on_failure=[…])",
}
_WHY_RESOURCE_LEFT = {
    "properties": "Azure's containers and queues do not apply here",
    "shm_size": "containers are not supported: the script runs in a process of the node",
    "docker_args": "containers are not supported: the script runs in a process of the node",
}


def job_fields(
    section: Section,
    inputs: Mapping[str, Input],
    split: str,
    outputs: Outputs,
    references: References,
    findings: MigrationFindings,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of the configuration, and the script's arguments."""
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
    arguments_text = str(task.get("program_arguments") or "")
    program = program_arguments(arguments_text, inputs, split, outputs, findings)
    for key in sorted(fields.keys() & program.options.fields.keys()):
        if fields[key] != program.options.fields[key]:
            why = "program_arguments take precedence: they come last on the command line of Azure's driver"
            findings.changed(key, fields[key], f"{key}={program.options.fields[key]!r}", why)
    fields |= program.options.fields
    findings.add(program.options.differences, "task.program_arguments ")
    fields.setdefault("error_threshold", -1)  # as in Azure
    for key in sorted(section.keys() - _READ):
        findings.left_out(key, section[key], WHY_LEFT.get(key, "it is metadata of Azure"))
    for key in sorted(task.keys() - _TASK_READ):
        findings.left_out(f"task.{key}", task[key], "only scripts can be run here")
    return fields, program.arguments


def _script(task: Section, fields: dict[str, Any], references: References, findings: MigrationFindings) -> None:
    script = task.get("entry_script")
    if not isinstance(script, str):
        raise ValueError(f"{task.where('entry_script')}: entry_script is {script!r}; expected a path below code")
    folder = task.file.absolute().parent
    code = task.get("code")
    if code is None:
        fields["entry_script"] = str(folder / script)
        findings.taken("task.entry_script", script, fields["entry_script"])
        return
    location = references.resolve(str(code), folder, "task.code", findings)
    fields["entry_script"] = script
    findings.taken("task.entry_script", script, f"entry_script={script!r}")
    if location is not None:
        fields["source_directory"] = location
        findings.taken("task.code", code, f"source_directory={location!r}")


def _numbers(section: Section, fields: dict[str, Any], findings: MigrationFindings) -> None:
    """Convert numbers and other fields with a direct equivalent."""
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
        why = _WHY_RESOURCE_LEFT.get(key, "the compute target determines the machines")
        findings.left_out(f"resources.{key}", resources[key], why)
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
        keys = parse_keys(keys) if isinstance(keys, str) else keys
        if not isinstance(keys, list):
            raise section.error("partition_keys", "a list of key names, or a JSON array of them in a string")
        fields["partition_keys"] = [str(key) for key in keys]
        findings.taken("partition_keys", ", ".join(fields["partition_keys"]), "the same")
    if size is not None and keys is not None:
        findings.left_out("mini_batch_size", size, "partition_keys take effect, as in Azure")
    elif size is not None:
        fields["mini_batch_size"] = str(size).replace(" ", "")  # reported later, when the unit is known


def _number(owner: Section, key: str) -> int | None:
    value = owner.get(key)
    if value is None:
        return None
    try:
        number = int(str(value))
    except ValueError:
        raise owner.error(key, "an integer") from None
    return number


def _variables(section: Section, fields: dict[str, Any], findings: MigrationFindings) -> None:
    values = section.section("environment_variables")
    variables = {name: "" if value is None else str(value) for name, value in values.items()}
    report_variables(variables, findings)
    if variables:
        fields["environment_variables"] = variables


def report_variables(variables: Mapping[str, str], findings: MigrationFindings) -> None:
    """Record that the generated Python reads the values of these variables from the environment."""
    for name, text in variables.items():
        source = referenced_variable(text) or name
        why = f"values are secrets, so they are not printed: set {source} before running the generated Python"
        findings.changed(f"environment_variables.{name}", None, f"the environment's {source}", why)


def _target(section: Section, fields: dict[str, Any], references: References, findings: MigrationFindings) -> None:
    compute = section.get("compute")
    if compute is None or compute == LOCAL:
        return
    known = references.known(str(compute))
    if known is not None:
        fields["compute_target"] = known
        findings.changed("compute", compute, known, "as specified")
    else:
        why = "only your Azure workspace can resolve the cluster; another one, such as tls://host:8786"
        findings.changed("compute", compute, "this machine", why, str(compute))
