"""What ``run`` and ``plan`` are told: configuration, inputs, output, arguments; as options, and the values they stand for."""

from __future__ import annotations

import argparse
import codecs
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_parallel_run.cli._output import say

if TYPE_CHECKING:
    from prefect_parallel_run.config.model import ParallelRunConfig
    from prefect_parallel_run.datasets.base import Dataset

FORMATS = ("files", "parquet", "delimited", "json-lines", "arrow", "orc")
_NAMED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.+)", re.DOTALL)
_OF_FORMAT = {
    "partition_format": ("files",),
    "delimiter": ("delimited",),
    "quote": ("delimited",),
    "escape": ("delimited",),
    "double_quote": ("delimited",),
    "header": ("delimited",),
    "decimal": ("delimited",),
    "column_types": ("delimited",),
    "na_values": ("delimited",),
    "keep_default_na": ("delimited",),
    "encoding": ("delimited", "json-lines"),
    "compression": ("delimited", "json-lines"),
}
_OPTIONS = {  #: of fields that are named otherwise
    "double_quote": "--no-double-quote",
    "header": "--no-header",
    "column_types": "--column-type",
    "na_values": "--na-value",
    "keep_default_na": "--no-default-na",
}
_ESCAPED = {"\\t": "\t", "\\\\": "\\"}  #: as a shell passes them on


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """What a step is to be made of."""

    name: str
    config: ParallelRunConfig
    inputs: list[Dataset]
    output: str | None
    side_inputs: Mapping[str, str]
    arguments: list[str]
    allow_reuse: bool


def add_step_options(command: argparse.ArgumentParser) -> None:
    """Add the options; what follows ``--`` on the command line is for the script."""
    inputs = command.add_argument_group("inputs")
    words = "a path, folder, glob or URL, or several that are one input; again for a further input"
    inputs.add_argument("--input", action="append", nargs="+", default=[], metavar="[NAME=]PATH", help=words)
    words = "a file with one path or URL a line (or ended by NUL each); - reads stdin"
    inputs.add_argument("--input-list", action="append", default=[], metavar="FILE", help=words)
    words = "a path that every process can reach; it is not split"
    inputs.add_argument("--side-input", action="append", default=[], metavar="NAME=PATH", help=words)
    inputs.add_argument("--format", choices=FORMATS, default="files", help="what the inputs are (default: files)")
    inputs.add_argument(
        "--partition-format", metavar="TEXT", help="what the end of a file's path says: {user}/{day:yyyy/MM/dd}/*"
    )
    inputs.add_argument("--delimiter", metavar="C", help=r"between the fields of delimited text (default: ,); \t is a tab")
    inputs.add_argument("--quote", metavar="C", help="around fields that need it (default: \"); '' for none")
    inputs.add_argument("--escape", metavar="C", help="in front of a character that then means itself")
    words = "two quotes in a quoted field are no way to write one"
    inputs.add_argument("--no-double-quote", dest="double_quote", action="store_false", default=None, help=words)
    inputs.add_argument("--no-header", dest="header", action="store_false", default=None, help="the first record is data")
    inputs.add_argument("--decimal", metavar="C", help="the decimal point (default: .)")
    words = "the type of a column: string, int64, Int64, float64 or boolean; again for further columns"
    inputs.add_argument("--column-type", dest="column_types", action="append", metavar="NAME=TYPE", help=words)
    words = "a text that stands for a missing value, beside those of pandas; again for further texts"
    inputs.add_argument("--na-value", dest="na_values", action="append", metavar="TEXT", help=words)
    words = "NA, null, an empty field and the like are strings; only --na-value stands for a missing value"
    inputs.add_argument("--no-default-na", dest="keep_default_na", action="store_false", default=None, help=words)
    inputs.add_argument("--encoding", metavar="NAME", help="of delimited text and JSON lines (default: utf-8)")
    inputs.add_argument(
        "--compression", choices=("infer", "gzip", "bz2", "xz", "zstd", "none"), help="of these (default: infer)"
    )
    inputs.add_argument("--allow-empty", action="store_true", help="an input without items is no error")
    command.add_argument("--output", metavar="PATH", help="folder or URL for the result; append_row needs it")
    command.add_argument("--name", help="of the step (default: that of CONFIG)")
    words = "another value of a field of CONFIG, written as in YAML; again for further fields"
    command.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=words)


def split_arguments(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return our own words, and those behind the first ``--``, which are the script's.

    >>> split_arguments(["run", "c.yml", "--", "--model", "m"])
    (['run', 'c.yml'], ['--model', 'm'])
    """
    if "--" not in words:
        return list(words), []
    place = list(words).index("--")
    return list(words[:place]), list(words[place + 1 :])


def read_step_options(given: argparse.Namespace, *, is_to_run: bool) -> StepOptions:
    """Return what the options stand for; a step that is to run needs more of them.

    Raises:
        ValueError: One of them is not what it should be; says which and what is accepted.
        InputError: An input cannot be what it is said to be.
    """
    from prefect_parallel_run.planning.inputs import check_arguments, resolve_output, resolve_side_inputs  # noqa: PLC0415  not for --help
    from prefect_parallel_run.planning.writing import normalise_inputs  # noqa: PLC0415  the same

    config = _config(given)
    inputs = normalise_inputs(_inputs(given))
    if is_to_run and config.result_file_name is not None and given.output is None:
        raise ValueError("--output is missing: with output_action append_row the result needs a folder or a URL")
    names = [str(dataset.name) for dataset in inputs]
    return StepOptions(
        name=given.name or step_name(given.config),
        config=config,
        inputs=inputs,
        output=resolve_output(given.output, required=False),
        side_inputs=resolve_side_inputs(dict(_side_inputs(given.side_input)), names),
        arguments=list(check_arguments(given.arguments)),
        allow_reuse=not getattr(given, "no_reuse", False),
    )


def step_name(config: str) -> str:
    """Return the name of a step whose configuration is in this file.

    >>> step_name("configs/score images (v2).yml")
    'score images v2'
    """
    name = re.sub(r"[^A-Za-z0-9 _.-]+", "", Path(config).stem).strip(" _.-")
    return name[:100] or "parallel-run"


def _config(given: argparse.Namespace) -> ParallelRunConfig:
    from prefect_parallel_run.config.model import ParallelRunConfig  # noqa: PLC0415  pydantic, which --help does not need
    from prefect_parallel_run.config.yaml_file import load, value  # noqa: PLC0415  the same

    if not Path(given.config).is_file():
        raise ValueError(f"{given.config}: no such configuration file")
    others = {}
    for text in given.set:
        field, sign, words = text.partition("=")
        if not sign:
            raise ValueError(f"--set {text}: accepted: FIELD=VALUE, such as node_count=2")
        others[field] = value(words, f"--set {field}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        config = load(ParallelRunConfig, Path(given.config), others, "--set")
    for warning in caught:  # in a person's words, without the place in our code
        say(str(warning.message))
    return config


def _inputs(given: argparse.Namespace) -> Iterator[Dataset]:
    """Yield the inputs in the order of their options."""
    if not given.input and not given.input_list:
        raise ValueError("no input was given; pass --input or --input-list")
    for paths in given.input:
        name, first = named(paths[0])
        yield _dataset(given, [first, *paths[1:]], name)
    for place in given.input_list:
        paths = paths_in(_read(place))
        if not paths:
            raise ValueError(f"--input-list {place}: has no path in it")
        yield _dataset(given, paths, None)


def _dataset(given: argparse.Namespace, paths: list[str], name: str | None) -> Dataset:
    options = format_options(given.format, {field: getattr(given, field) for field in _OF_FORMAT})
    dataset = _made(given.format, paths, {**options, "allow_empty": given.allow_empty})
    return dataset if name is None else dataset.as_named_input(name)


def _made(kind: str, paths: list[str], options: dict[str, Any]) -> Dataset:
    from pydantic import ValidationError  # noqa: PLC0415  not for --help

    from prefect_parallel_run.config.model import wrong_fields  # noqa: PLC0415  the same
    from prefect_parallel_run.datasets.files import FileDataset  # noqa: PLC0415  the same

    try:
        if kind == "files":
            return FileDataset.from_files(paths, **options)
        from prefect_parallel_run.datasets.tabular import TabularDataset  # noqa: PLC0415  pandas, which files do not need

        makers = {
            "parquet": TabularDataset.from_parquet_files,
            "delimited": TabularDataset.from_delimited_files,
            "json-lines": TabularDataset.from_json_lines_files,
            "arrow": TabularDataset.from_arrow_files,
            "orc": TabularDataset.from_orc_files,
        }
        return makers[kind](paths, **options)
    except ValidationError as error:
        said = (f"{_option(field)}: {words}" for field, words in wrong_fields(error).items())
        raise ValueError("\n".join(said).replace("Value error, ", "")) from None


def format_options(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, as the dataset takes them; raises ValueError for one of another format."""
    found: dict[str, Any] = {}
    for field, value in given.items():
        if value is None:
            continue
        if kind not in _OF_FORMAT[field]:
            raise ValueError(f"{_option(field)} is for --format {' and '.join(_OF_FORMAT[field])}; the format is {kind}")
        found[field] = _ESCAPED.get(value, value) if isinstance(value, str) else value
    if found.get("compression") == "none":
        found["compression"] = None
    if "column_types" in found:
        found["column_types"] = dict(map(_name_and_type, found["column_types"]))
    return found


def _option(field: str) -> str:
    return _OPTIONS.get(field, f"--{field.replace('_', '-')}")


def _name_and_type(text: str) -> tuple[str, str]:
    name, sign, kind = text.rpartition("=")
    if not sign:
        raise ValueError(f"--column-type {text}: accepted: NAME=TYPE, such as id=string")
    return name, kind


def named(text: str) -> tuple[str | None, str]:
    """Return the name, or None, and the path in ``[NAME=]PATH``; what exists as it stands is a path.

    >>> named("images=s3://photos/2024"), named("./a=b"), named("s3://b/k=1")
    (('images', 's3://photos/2024'), (None, './a=b'), (None, 's3://b/k=1'))
    """
    match = _NAMED.fullmatch(text)
    if match is None or os.path.lexists(text):
        return None, text
    return match[1], match[2]


def _side_inputs(given: Sequence[str]) -> Iterator[tuple[str, str]]:
    for text in given:
        match = _NAMED.fullmatch(text)
        if match is None:
            raise ValueError(f"--side-input {text}: accepted: NAME=PATH")
        yield match[1], match[2]


def _read(place: str) -> bytes:
    return sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()


def paths_in(data: bytes) -> list[str]:
    r"""Return the paths in a list, one a line, or each ended by NUL where there is one; empty ones are left out.

    A byte order mark is left out, and so is the carriage return of lines that all end in CR LF.

    >>> paths_in(b"a b\nc\n"), paths_in(b"line\nend\0c\0")
    (['a b', 'c'], ['line\nend', 'c'])
    """
    if b"\0" in data:
        return [os.fsdecode(path) for path in data.split(b"\0") if path]
    data = data.removeprefix(codecs.BOM_UTF8)
    is_windows = data.count(b"\r\n") == data.count(b"\n")
    end = b"\r\n" if is_windows and b"\n" in data else b"\n"
    return [os.fsdecode(path) for path in data.split(end) if path]
