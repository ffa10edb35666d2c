"""Options of ``run`` and ``plan``: configuration, inputs, output, arguments; and the values they stand for."""

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

from prefect_parallel_run.cli._output import notify

if TYPE_CHECKING:
    from prefect_parallel_run.config.model import ParallelRunConfig
    from prefect_parallel_run.datasets.base import Dataset

FORMATS = ("files", "parquet", "delimited", "json-lines", "arrow", "orc")
_NAMED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.+)", re.DOTALL)
_FORMATS_OF_OPTION = {
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
_OPTION_NAMES = {  #: for fields whose option has another name
    "double_quote": "--no-double-quote",
    "header": "--no-header",
    "column_types": "--column-type",
    "na_values": "--na-value",
    "keep_default_na": "--no-default-na",
}
_ESCAPED = {"\\t": "\t", "\\\\": "\\"}  #: as a shell passes them


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """Everything needed to create a step."""

    name: str
    config: ParallelRunConfig
    inputs: list[Dataset]
    output: str | None
    side_inputs: Mapping[str, str]
    arguments: list[str]
    allow_reuse: bool


def add_step_options(command: argparse.ArgumentParser) -> None:
    """Add the options; arguments after ``--`` on the command line belong to the script."""
    inputs = command.add_argument_group("inputs")
    help_text = "a path, folder, glob or URL, or several that form one input; repeat for further inputs"
    inputs.add_argument("--input", action="append", nargs="+", default=[], metavar="[NAME=]PATH", help=help_text)
    help_text = "a file with one path or URL per line (or terminated by NUL); - reads stdin"
    inputs.add_argument("--input-list", action="append", default=[], metavar="FILE", help=help_text)
    help_text = "a path passed to every process as a whole, not split into mini-batches"
    inputs.add_argument("--side-input", action="append", default=[], metavar="NAME=PATH", help=help_text)
    inputs.add_argument("--format", choices=FORMATS, default="files", help="format of the inputs (default: files)")
    inputs.add_argument(
        "--partition-format", metavar="TEXT", help="pattern for the end of a file's path: {user}/{day:yyyy/MM/dd}/*"
    )
    inputs.add_argument("--delimiter", metavar="C", help=r"field separator of delimited text (default: ,); \t is a tab")
    inputs.add_argument("--quote", metavar="C", help="quote character (default: \"); '' for none")
    inputs.add_argument("--escape", metavar="C", help="escape character")
    help_text = "two quotes in a quoted field do not stand for one"
    inputs.add_argument("--no-double-quote", dest="double_quote", action="store_false", default=None, help=help_text)
    inputs.add_argument("--no-header", dest="header", action="store_false", default=None, help="the first record is data")
    inputs.add_argument("--decimal", metavar="C", help="decimal point (default: .)")
    help_text = "the type of a column: string, int64, Int64, float64 or boolean; repeat for further columns"
    inputs.add_argument("--column-type", dest="column_types", action="append", metavar="NAME=TYPE", help=help_text)
    help_text = "a string that stands for a missing value, in addition to those of pandas; can be repeated"
    inputs.add_argument("--na-value", dest="na_values", action="append", metavar="TEXT", help=help_text)
    help_text = "NA, null, an empty field and the like are strings; only --na-value stands for a missing value"
    inputs.add_argument("--no-default-na", dest="keep_default_na", action="store_false", default=None, help=help_text)
    inputs.add_argument("--encoding", metavar="NAME", help="encoding of delimited text and JSON lines (default: utf-8)")
    inputs.add_argument(
        "--compression",
        choices=("infer", "gzip", "bz2", "xz", "zstd", "none"),
        help="compression of delimited text and JSON lines (default: infer)",
    )
    inputs.add_argument("--allow-empty", action="store_true", help="allow an input without items")
    command.add_argument("--output", metavar="PATH", help="folder or URL for the result; required for append_row")
    command.add_argument("--name", help="name of the step (default: that of CONFIG)")
    help_text = "override a field of CONFIG, written as in YAML; can be repeated"
    command.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=help_text)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the program's own arguments, and the script's: those after the first ``--``.

    >>> split_arguments(["run", "c.yml", "--", "--model", "m"])
    (['run', 'c.yml'], ['--model', 'm'])
    """
    if "--" not in arguments:
        return list(arguments), []
    index = list(arguments).index("--")
    return list(arguments[:index]), list(arguments[index + 1 :])


def read_step_options(args: argparse.Namespace, *, for_run: bool) -> StepOptions:
    """Return the values of the options; *for_run* also requires those that only a run needs.

    Raises:
        ValueError: An option is invalid; says which and what is expected.
        InputError: An input is not of the declared kind.
    """
    from prefect_parallel_run.planning.inputs import check_arguments, normalise_inputs, resolve_output, resolve_side_inputs

    config = _config(args)
    inputs = normalise_inputs(_inputs(args))
    if for_run and config.result_file_name is not None and args.output is None:
        raise ValueError("--output is missing: output_action append_row needs a folder or URL for the result")
    names = [str(dataset.name) for dataset in inputs]
    return StepOptions(
        name=args.name or step_name(args.config),
        config=config,
        inputs=inputs,
        output=resolve_output(args.output, required=False),
        side_inputs=resolve_side_inputs(dict(_side_inputs(args.side_input)), names),
        arguments=list(check_arguments(args.arguments)),
        allow_reuse=not getattr(args, "no_reuse", False),
    )


def step_name(config: str) -> str:
    """Return the step name that a configuration file implies.

    >>> step_name("configs/score images (v2).yml")
    'score images v2'
    """
    name = re.sub(r"[^A-Za-z0-9 _.-]+", "", Path(config).stem).strip(" _.-")
    return name[:100] or "parallel-run"


def _config(args: argparse.Namespace) -> ParallelRunConfig:
    from prefect_parallel_run.config.model import ParallelRunConfig
    from prefect_parallel_run.config.yaml_file import load
    from prefect_parallel_run.config.yaml_reader import read_value

    if not Path(args.config).is_file():
        raise ValueError(f"{args.config}: configuration file not found")
    overrides = {}
    for assignment in args.set:
        field, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set: expected FIELD=VALUE, such as node_count=2, got {assignment!r}")
        overrides[field] = read_value(text, f"--set {field}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        config = load(ParallelRunConfig, Path(args.config), overrides, "--set")
    for warning in caught:  # only the message, without the source line
        notify(str(warning.message))
    return config


def _inputs(args: argparse.Namespace) -> Iterator[Dataset]:
    """Yield the inputs in the order of their options."""
    if not args.input and not args.input_list:
        raise ValueError("no input; pass --input or --input-list")
    for paths in args.input:
        name, first = split_name(paths[0])
        yield _dataset(args, [first, *paths[1:]], name)
    for path in args.input_list:
        paths = paths_in(_read(path))
        if not paths:
            raise ValueError(f"--input-list {path}: contains no paths")
        yield _dataset(args, paths, None)


def _dataset(args: argparse.Namespace, paths: list[str], name: str | None) -> Dataset:
    options = format_options(args.format, {field: getattr(args, field) for field in _FORMATS_OF_OPTION})
    dataset = _build_dataset(args.format, paths, {**options, "allow_empty": args.allow_empty})
    return dataset if name is None else dataset.as_named_input(name)


def _build_dataset(kind: str, paths: list[str], options: dict[str, Any]) -> Dataset:
    from pydantic import ValidationError

    from prefect_parallel_run.config.base import wrong_fields
    from prefect_parallel_run.datasets.files import FileDataset

    try:
        if kind == "files":
            return FileDataset.from_files(paths, **options)
        from prefect_parallel_run.datasets.tabular import TabularDataset

        factories = {
            "parquet": TabularDataset.from_parquet_files,
            "delimited": TabularDataset.from_delimited_files,
            "json-lines": TabularDataset.from_json_lines_files,
            "arrow": TabularDataset.from_arrow_files,
            "orc": TabularDataset.from_orc_files,
        }
        return factories[kind](paths, **options)
    except ValidationError as error:
        messages = (f"{_option_name(field)}: {message}" for field, message in wrong_fields(error).items())
        raise ValueError("\n".join(messages)) from None


def format_options(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are set, in the form the dataset takes; raises ValueError for one of another format."""
    options: dict[str, Any] = {}
    for field, value in values.items():
        if value is None:
            continue
        if kind not in _FORMATS_OF_OPTION[field]:
            formats = " and ".join(_FORMATS_OF_OPTION[field])
            raise ValueError(f"{_option_name(field)} works only with --format {formats}, not with {kind}")
        options[field] = _ESCAPED.get(value, value) if isinstance(value, str) else value
    if options.get("compression") == "none":
        options["compression"] = None
    if "column_types" in options:
        options["column_types"] = dict(map(_name_and_type, options["column_types"]))
    return options


def _option_name(field: str) -> str:
    return _OPTION_NAMES.get(field, f"--{field.replace('_', '-')}")


def _name_and_type(text: str) -> tuple[str, str]:
    name, equals, kind = text.rpartition("=")
    if not equals:
        raise ValueError(f"--column-type: expected NAME=TYPE, such as id=string, got {text!r}")
    return name, kind


def split_name(text: str) -> tuple[str | None, str]:
    """Return the name, or None, and the path in ``[NAME=]PATH``; *text* that exists as a file is a path.

    >>> split_name("images=s3://photos/2024"), split_name("./a=b"), split_name("s3://b/k=1")
    (('images', 's3://photos/2024'), (None, './a=b'), (None, 's3://b/k=1'))
    """
    match = _NAMED.fullmatch(text)
    if match is None or os.path.lexists(text):
        return None, text
    return match[1], match[2]


def _side_inputs(options: Sequence[str]) -> Iterator[tuple[str, str]]:
    for option in options:
        match = _NAMED.fullmatch(option)
        if match is None:
            raise ValueError(f"--side-input: expected NAME=PATH, got {option!r}")
        yield match[1], match[2]


def _read(path: str) -> bytes:
    return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()


def paths_in(data: bytes) -> list[str]:
    r"""Return the non-empty paths of a list: one per line, or NUL-terminated if it contains a NUL.

    A byte order mark is removed, and so are carriage returns if all lines end in CR LF.

    >>> paths_in(b"a b\nc\n"), paths_in(b"line\nend\0c\0")
    (['a b', 'c'], ['line\nend', 'c'])
    """
    if b"\0" in data:
        return [os.fsdecode(path) for path in data.split(b"\0") if path]
    data = data.removeprefix(codecs.BOM_UTF8)
    is_windows = data.count(b"\r\n") == data.count(b"\n")
    end = b"\r\n" if is_windows and b"\n" in data else b"\n"
    return [os.fsdecode(path) for path in data.split(end) if path]
