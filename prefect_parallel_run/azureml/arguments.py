"""Converts a parallel job's program_arguments, a string, to a step's list of arguments with placeholders of ours. Pure."""

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
    """The arguments of a job, split into the script's and those for Azure's driver."""

    arguments: tuple[str, ...]  #: the script's
    options: Translation  #: the translated options of Azure's driver


def program_arguments(
    text: str, inputs: Mapping[str, Input], split: str, outputs: Outputs, findings: MigrationFindings
) -> Arguments:
    """Return the arguments of a job.

    Args:
        text: The field's text; a part in ``$[[…]]`` applies only if all inputs in it have values.
        inputs: The job's inputs, by name.
        split: Name of the input that is split into mini-batches.
        outputs: The job's outputs.
        findings: Receives the differences.

    Raises:
        ValueError: The text refers to an unknown input or output, has an unclosed quote, or an option with an invalid value.
    """
    kept_text = _OPTIONAL.sub(lambda match: match[1] if _have_values(match[1], inputs) else "", text)
    try:
        words = shlex.split(_spaceless(kept_text))
    except ValueError as error:
        raise ValueError(f"{_FIELD}: {error}: {text!r}") from None
    for word in words:
        if ours := _OURS.search(EXPRESSION.sub("", word)):
            findings.open(_FIELD, word, f"{ours[0]} is a placeholder here: the script would receive a path instead")
    options, rest = job_options([_substitute(word, inputs, split, outputs) for word in words])
    return Arguments(tuple(rest), options)


def _spaceless(text: str) -> str:
    """Return *text* without blanks in expressions, so that each stays one word."""
    return EXPRESSION.sub(lambda match: f"${{{{{match[1]}}}}}", text)


def _have_values(text: str, inputs: Mapping[str, Input]) -> bool:
    names = (match[1].removeprefix("inputs.") for match in EXPRESSION.finditer(text) if match[1].startswith("inputs."))
    return all(inputs.get(name) is not None for name in names)


def _substitute(word: str, inputs: Mapping[str, Input], split: str, outputs: Outputs) -> str:
    return EXPRESSION.sub(lambda match: _value(match[1], inputs, split, outputs), word)


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
    raise ValueError(f"{_FIELD}: ${{{{{inside}}}}} is unknown; expected one of: {known}")
