"""A parallel job's program_arguments, one text, as a step's arguments: a list, with placeholders of ours. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from prefect_parallel_run.azureml.expressions import EXPRESSION, Data, Input, Literal, Missing
from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.azureml.options import Translation, job_options
from prefect_parallel_run.azureml.outputs import Outputs

_FIELD = "task.program_arguments"
_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)
_OURS = re.compile(r"\{(?:output|(?:inputs|side_inputs)\.\w+)\}")


class Arguments(NamedTuple):
    """What a job's arguments are here."""

    arguments: tuple[str, ...]  #: the script's
    options: Translation  #: what the others mean


def program_arguments(
    text: str, inputs: Mapping[str, Input], split: str, outputs: Outputs, findings: MigrationFindings
) -> Arguments:
    """Return the arguments of a job.

    Args:
        text: As the file has it; ``$[[…]]`` stands there only when the inputs in it are given.
        inputs: Of the job, by name.
        split: The input that is cut into mini-batches.
        outputs: Of the job.
        findings: Note what became of it.

    Raises:
        ValueError: It refers to what is neither input nor output, has a quote without its end, or an option a wrong value.
    """
    kept = _OPTIONAL.sub(lambda found: found[1] if _all_given(found[1], inputs) else "", text)
    try:
        words = shlex.split(_spaceless(kept))
    except ValueError as error:
        raise ValueError(f"{_FIELD}: {error}: {text!r}") from None
    for word in words:
        if ours := _OURS.search(EXPRESSION.sub("", word)):
            findings.open(_FIELD, word, f"{ours[0]} is a placeholder here: the script would get a path in its place")
    options, rest = job_options([_filled(word, inputs, split, outputs) for word in words])
    return Arguments(tuple(rest), options)


def _spaceless(text: str) -> str:
    """Return *text* with no blanks in expressions, so that each stays one word."""
    return EXPRESSION.sub(lambda found: f"${{{{{found[1]}}}}}", text)


def _all_given(text: str, inputs: Mapping[str, Input]) -> bool:
    names = (found[1].removeprefix("inputs.") for found in EXPRESSION.finditer(text) if found[1].startswith("inputs."))
    return all(inputs.get(name) is not None for name in names)


def _filled(word: str, inputs: Mapping[str, Input], split: str, outputs: Outputs) -> str:
    return EXPRESSION.sub(lambda found: _value(found[1], inputs, split, outputs), word)


def _value(inside: str, inputs: Mapping[str, Input], split: str, outputs: Outputs) -> str:
    kind, _, name = inside.partition(".")
    if kind == "outputs" and name in outputs.places:
        return outputs.places[name]
    found = inputs.get(name) if kind == "inputs" else None
    if isinstance(found, Literal):
        return found.text
    if isinstance(found, Missing):
        return found.reference
    if isinstance(found, Data):
        return f"{{{'inputs' if name == split else 'side_inputs'}.{name}}}"
    known = ", ".join([*(f"inputs.{key}" for key in inputs), *(f"outputs.{key}" for key in outputs.places)]) or "none"
    raise ValueError(f"{_FIELD}: ${{{{{inside}}}}} stands for nothing here; known: {known}")
