"""``import``: the Python that says what a file of Azure ML's says, and what is different, field by field."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit_json, emit_raw, say
from prefect_parallel_run.cli._run_argument import add_json
from prefect_parallel_run.units import count

if TYPE_CHECKING:
    from prefect_parallel_run.azureml.findings import Difference
    from prefect_parallel_run.azureml.load import Imported

_WORDS = "Print the Python that says what a file of Azure ML's says, and list what is different."


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser("import", help=_WORDS, description=_WORDS)
    words = "ParallelRunConfig YAML (version 1), pipeline job, parallel job or component (version 2), or MLTable file"
    command.add_argument("file", help=words)
    place = (
        "path, URL or compute target for what only an Azure workspace knows, or an input's value, such as"
        " azureml:iris:1=/data/iris or '${{inputs.level}}=3'"
    )
    command.add_argument("--map", action="append", default=[], metavar="REFERENCE=PLACE", help=place)
    add_json(command)
    command.set_defaults(do=_import)


def _import(given: argparse.Namespace) -> int:
    from prefect_parallel_run.azureml.codegen import python_source  # noqa: PLC0415  the same
    from prefect_parallel_run.azureml.load import load  # noqa: PLC0415  pydantic and YAML, which --help does not need

    try:
        imported = load(given.file, dict(map(_pair, given.map)))
    except OSError as error:
        raise ValueError(f"{error.filename or given.file}: cannot be read: {error.strerror}") from None
    source = python_source(imported)
    if given.json:
        emit_json(_as_json(imported, source))
    else:
        emit_raw(source)
    if not imported.undecided:
        return Exit.WELL
    open_ones = count(len(imported.undecided), "field has", "fields have")
    say(f"{open_ones} to be decided before it is run; what is open stands first")
    return Exit.FAILED


def _pair(text: str) -> tuple[str, str]:
    reference, equals, place = text.partition("=")
    if not (reference and equals and place):
        raise ValueError(f"--map is {text!r}; accepted: REFERENCE=PLACE")
    return reference, place


def _as_json(imported: Imported, source: str) -> dict[str, Any]:
    steps = [{"name": step.name, "differences": _plain(step.differences)} for step in imported.steps]
    return {
        "file": str(imported.file),
        "undecided": len(imported.undecided),
        "differences": _plain(imported.differences),
        "steps": steps,
        "python": source,
    }


def _plain(differences: Iterable[Difference]) -> list[dict[str, Any]]:
    return [{**dataclasses.asdict(one), "outcome": one.outcome.value} for one in differences]
