"""``import``: converts an Azure ML file to Python and lists the differences field by field."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import click

from prefect_parallel_run._units import count
from prefect_parallel_run.azureml.codegen import python_source
from prefect_parallel_run.azureml.findings import Difference
from prefect_parallel_run.azureml.load import Imported, load
from prefect_parallel_run.cli._command import Command, Exit, emit_json, emit_raw, notify

_MAP = (
    "Path, URL or compute target for a name that only the Azure workspace can resolve, or an input's value, such as"
    " azureml:iris:1=/data/iris or '${{inputs.level}}=3'; can be repeated."
)


@click.command("import", cls=Command)
@click.argument("file")
@click.option("--map", "mappings", multiple=True, metavar="REFERENCE=PLACE", help=_MAP)
def import_file(file: str, mappings: tuple[str, ...], as_json: bool) -> Exit:
    """Convert an Azure ML file to Python code and list what differs.

    FILE is a ParallelRunConfig YAML (version 1), a pipeline job, parallel job or component (version 2), or an MLTable file.
    """
    try:
        imported = load(file, dict(map(_parse_mapping, mappings)))
    except OSError as error:
        raise ValueError(f"{error.filename or file}: cannot read it: {error.strerror}") from None
    source = python_source(imported)
    if as_json:
        emit_json(_as_json(imported, source))
    else:
        emit_raw(source)
    if not imported.undecided:
        return Exit.SUCCESS
    undecided = count(len(imported.undecided), "field needs", "fields need")
    notify(f"{undecided} a decision before the step can run; they are listed first")
    return Exit.FAILED


def _parse_mapping(text: str) -> tuple[str, str]:
    reference, equals, replacement = text.partition("=")
    if not (reference and equals and replacement):
        raise ValueError(f"--map: expected REFERENCE=PLACE, got {text!r}")
    return reference, replacement


def _as_json(imported: Imported, source: str) -> dict[str, Any]:
    steps = [{"name": step.name, "differences": _to_dicts(step.differences)} for step in imported.steps]
    return {
        "file": str(imported.file),
        "undecided": len(imported.undecided),
        "differences": _to_dicts(imported.differences),
        "steps": steps,
        "python": source,
    }


def _to_dicts(differences: Iterable[Difference]) -> list[dict[str, Any]]:
    return [{**dataclasses.asdict(difference), "outcome": difference.outcome.value} for difference in differences]
