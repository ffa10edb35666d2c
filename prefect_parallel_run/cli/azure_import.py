"""``import``: converts an Azure ML file to Python and lists the differences field by field."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prefect_parallel_run._units import count
from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit_json, emit_raw, notify
from prefect_parallel_run.cli._run_argument import add_json

if TYPE_CHECKING:
    from prefect_parallel_run.azureml.findings import Difference
    from prefect_parallel_run.azureml.load import Imported

_DESCRIPTION = "Convert an Azure ML file to Python code and list what differs."


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser("import", help=_DESCRIPTION, description=_DESCRIPTION)
    file_help = "ParallelRunConfig YAML (version 1), pipeline job, parallel job or component (version 2), or MLTable file"
    command.add_argument("file", help=file_help)
    map_help = (
        "path, URL or compute target for a name that only the Azure workspace can resolve, or an input's value, such as"
        " azureml:iris:1=/data/iris or '${{inputs.level}}=3'"
    )
    command.add_argument("--map", action="append", default=[], metavar="REFERENCE=PLACE", help=map_help)
    add_json(command)
    command.set_defaults(handler=_import)


def _import(args: argparse.Namespace) -> int:
    from prefect_parallel_run.azureml.codegen import python_source
    from prefect_parallel_run.azureml.load import load

    try:
        imported = load(args.file, dict(map(_parse_mapping, args.map)))
    except OSError as error:
        raise ValueError(f"{error.filename or args.file}: cannot read it: {error.strerror}") from None
    source = python_source(imported)
    if args.json:
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
