"""Generates Python code from an imported Azure file, preceded by a comment on each of its fields. Pure."""

from __future__ import annotations

import json
import keyword
import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from prefect_parallel_run.azureml.findings import Difference, ImportedStep, Outcome
from prefect_parallel_run.azureml.load import Imported
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.validation import is_unicode
from prefect_parallel_run.config.yaml_file import referenced_variable
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.environments import without_credentials

_INDENT = "    "
_WIDTH = 120
_COMMENT_WIDTH = 100
_ORDER = (Outcome.CHANGED, Outcome.LEFT, Outcome.TAKEN)  #: fields that differ come first
_DECIDE = """\
def decide(what):
    raise NotImplementedError(f"to be decided: {what}")
"""
_VARIABLE = """\
def variable(name):
    if name not in os.environ:
        raise LookupError(f"set {name} in the environment before running this: its value is a secret and was not imported")
    return os.environ[name]
"""


class Code(str):
    """A string of Python code."""

    __slots__ = ()


def python_source(imported: Imported) -> str:
    """Return a module with the same steps and a flow that runs them, or with the same dataset.

    Every decision that is still required becomes a call that raises, so that the module cannot run by mistake.
    """
    lines = list(_comments(imported))
    names = _variables([step.name for step in imported.steps])
    body: list[str] = []
    if imported.dataset is not None:
        generator = _Generator(imported.undecided)
        call = generator.dataset(imported.dataset)
        body += [*generator.decisions(), f"dataset = {call}"]
    for step, name in zip(imported.steps, names, strict=True):
        generator = _Generator(step.undecided)
        call = generator.step(step)
        body += [*generator.decisions(), f"{name} = {call}", ""]
    if imported.steps:
        body += ["", *_flow(imported, names)]
    if any("://***@" in line for line in body):
        lines.insert(-1, "# Passwords in requirements are omitted: write ${NAME} in their place, which pip replaces.")
    whole = "\n".join(body)
    helpers = [f"\n{text}\n" for call, text in (("decide(", _DECIDE), ("variable(", _VARIABLE)) if call in whole]
    body = [*helpers, *body]
    return "\n".join([*lines, *_imports(body), "", *body]).rstrip("\n") + "\n"


def _comments(imported: Imported) -> Iterator[str]:
    yield f"# From {_one_line(str(imported.file))}, imported from Azure ML."
    yield from _list("To be decided before it is run; until then the calls of decide() below raise", imported.undecided)
    for title, differences in [("the file", imported.differences), *((step.name, step.differences) for step in imported.steps)]:
        decided = [difference for difference in differences if difference.outcome is not Outcome.OPEN]
        yield from _list(title, sorted(decided, key=lambda difference: _ORDER.index(difference.outcome)))
    yield ""


def _list(title: str, differences: Iterable[Difference]) -> Iterator[str]:
    """Yield a comment on each of *differences*; a long word, such as a path, is not broken."""
    wrapper = textwrap.TextWrapper(_COMMENT_WIDTH, "#   ", "#     ", break_long_words=False, break_on_hyphens=False)
    if differences:
        yield f"# {title}:"
    for difference in differences:
        yield from wrapper.wrap(_one_line(difference.for_command()))


def _one_line(text: str) -> str:
    """Return text for a comment, without the line breaks that would end it."""
    return " ".join(text.split()).encode("utf-8", "replace").decode()


def _imports(lines: Iterable[str]) -> Iterator[str]:
    body = "\n".join(line for line in lines if not line.startswith("#"))
    standard = [f"import {module}" for module in ("os", "sys") if f"{module}." in body]
    standard += ["from pathlib import Path"] if "Path(" in body else []
    yield from [*standard, ""] if standard else []
    if "@flow" in body:
        yield "from prefect import flow"
    names = ("Environment", "FileDataset", "ParallelRunConfig", "ParallelRunStep", "TabularDataset")
    used = [name for name in names if f"{name}(" in body or f"{name}." in body]
    yield f"from prefect_parallel_run import {', '.join(used)}"


def _variables(names: Iterable[str]) -> list[str]:
    """Return a variable name for every step.

    >>> _variables(["batch scoring", "1a", "class", "batch_scoring"])
    ['batch_scoring', 'step_1a', 'step_class', 'batch_scoring_2']
    """
    variables: list[str] = []
    for name in names:
        plain = re.sub(r"\W", "_", name, flags=re.ASCII).lower()
        is_free = plain.isidentifier() and not keyword.iskeyword(plain) and plain not in _RESERVED
        variable = plain if is_free else f"step_{plain}"
        number = 2
        while variable in variables:
            variable = f"{plain}_{number}"
            number += 1
        variables.append(variable)
    return variables


_RESERVED = {"flow", "os", "sys", "print", "main", "path", "decide", "variable"}


def _flow(imported: Imported, names: list[str]) -> Iterator[str]:
    """Yield the flow; it calls the steps in the order of the file, one after the other."""
    without_inputs = [step for step in imported.steps if step.call.inputs is None]
    parameters = "inputs, output: str" if without_inputs else ""
    if without_inputs:
        yield "# inputs: a path, folder, glob or URL of files; for tables TabularDataset.from_parquet_files(…), …"
    yield "@flow"
    yield f"def main({parameters}):"
    for step in imported.steps:
        for folder in step.folders:
            yield f"{_INDENT}Path({render(folder)}).mkdir(parents=True, exist_ok=True)"
    call = "inputs=inputs, output=output" if without_inputs else ""
    yield from (f"{_INDENT}{name}({call})" for name in names[:-1])
    yield f"{_INDENT}return {names[-1]}({call})"
    yield ""
    yield ""
    yield 'if __name__ == "__main__":'
    if without_inputs:
        yield f"{_INDENT}if len(sys.argv) != 3:"
        yield f'{_INDENT * 2}sys.exit(f"usage: {{sys.argv[0]}} INPUTS OUTPUT")'
    yield f"{_INDENT}print(main({'*sys.argv[1:]' if without_inputs else ''}))"


class _Generator:
    """Generates the Python code of one step or dataset; *undecided* are the decisions that are still required."""

    def __init__(self, undecided: Iterable[Difference]) -> None:
        self._undecided = list(undecided)
        self._placed: set[str] = set()  # references that occur in the generated code

    def step(self, step: ImportedStep) -> Code:
        """Return the call that creates a step."""
        inputs, output, side_inputs, arguments, allow_reuse = step.call
        given: dict[str, Any] = {
            "inputs": None if inputs is None else self.dataset(inputs),
            "output": output,
            "side_inputs": {name: self._or_decide(path) for name, path in side_inputs.items()} or None,
            "arguments": [self._or_decide(word) for word in arguments] or None,
            "allow_reuse": None if allow_reuse else False,
        }
        fields = {key: _field(key, step.fields[key]) for key in ParallelRunConfig.model_fields if key in step.fields}
        config = _call("ParallelRunConfig", [], fields)
        keywords = {key: value for key, value in given.items() if value is not None}
        return _call("ParallelRunStep", [step.name, config], keywords)

    def dataset(self, dataset: Dataset) -> Code:
        """Return the call that creates a dataset."""
        values = dataset.model_dump(exclude_defaults=True, exclude={"paths", "name"})
        kind = values.pop("format", None)
        selected = {method: values.pop(method) for method in ("keep_columns", "drop_columns") if method in values}
        paths: Any = [self._or_decide(path) for path in dataset.paths]
        if kind == "delta":
            constructor, paths = "TabularDataset.from_delta_table", paths[0]
        else:
            constructor = "FileDataset.from_files" if kind is None else f"TabularDataset.from_{kind}_files"
        call = _call(constructor, [paths], values)
        call = Code(call + "".join(_call(f".{method}", [columns], {}) for method, columns in selected.items()))
        return call if dataset.name is None else Code(f"{call}.as_named_input({render(dataset.name)})")

    def decisions(self) -> Iterator[str]:
        """Yield a statement for every required decision that does not occur in the generated code."""
        for difference in self._undecided:
            if not difference.reference or difference.reference not in self._placed:
                yield f"decide({render(_description(difference))})  # and remove this line"

    def _or_decide(self, text: str) -> Any:
        """Return a string, or a call that raises if a part of it is undecided."""
        undecided = next((item for item in self._undecided if item.reference and item.reference in text), None)
        if undecided is None:
            return text
        self._placed.add(undecided.reference)
        return Code(f"decide({render(_description(undecided))})")


def _description(difference: Difference) -> str:
    field = f"{difference.field} {difference.given or difference.reference}".strip()
    return f"{field}: {difference.why}" if difference.why else field


def _field(key: str, value: Any) -> Any:
    if key == "environment" and isinstance(value, dict):
        arguments = {name: part for name, part in value.items() if part is not None}
        if "requirements" in arguments:
            arguments["requirements"] = [without_credentials(line) for line in arguments["requirements"]]
        return _call("Environment", [], arguments)
    if key == "environment_variables":
        return {name: Code(f"variable({render(referenced_variable(text) or name)})") for name, text in value.items()}
    return value


def _call(name: str, values: list[Any], keywords: dict[str, Any]) -> Code:
    parts = [render(value) for value in values] + [f"{key}={render(value)}" for key, value in keywords.items()]
    return Code(_bracketed(f"{name}(", parts, ")"))


def render(value: Any) -> str:
    """Return *value* as Python code, on several lines if it is long.

    >>> render({"a": ["x", 1, None, Code("f()")]})
    '{"a": ["x", 1, None, f()]}'
    """
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if is_unicode(value) and value.isprintable() else ascii(value)
    if isinstance(value, list | tuple):
        return _bracketed("[", [render(item) for item in value], "]")
    if isinstance(value, dict):
        return _bracketed("{", [f"{render(key)}: {render(item)}" for key, item in value.items()], "}")
    return repr(value)


def _bracketed(opening: str, parts: list[str], closing: str) -> str:
    line = f"{opening}{', '.join(parts)}{closing}"
    if len(line) <= _WIDTH - 40 and "\n" not in line:
        return line
    indented = [f"{_INDENT}{part.replace(chr(10), chr(10) + _INDENT)}," for part in parts]
    return "\n".join([opening, *indented, closing])
