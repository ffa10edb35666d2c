"""Options of ``run``, ``plan`` and ``try`` (configuration, inputs, output, arguments), and the step that they describe."""

from __future__ import annotations

import codecs
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from prefect_parallel_run.child.table_formats import TABLE_FORMATS
from prefect_parallel_run.child.text import COMPRESSIONS
from prefect_parallel_run.cli._command import Command, notify
from prefect_parallel_run.config.base import FieldPath, construct
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.yaml_file import load
from prefect_parallel_run.config.yaml_reader import read_value
from prefect_parallel_run.datasets.base import Dataset, given_paths
from prefect_parallel_run.datasets.files import FileDataset
from prefect_parallel_run.datasets.sql import SqlDataset
from prefect_parallel_run.datasets.tabular import TabularDataset
from prefect_parallel_run.planning.inputs import check_arguments, normalize_inputs, resolve_output, resolve_side_inputs

_OPTIONS_OF_FORMAT = {
    "files": ("partition_format",),
    **{name.replace("_", "-"): ("keep_columns", "drop_columns", *known.options) for name, known in TABLE_FORMATS.items()},
    "sql": ("keep_columns", "drop_columns", "uri"),
}
_NAMED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.+)", re.DOTALL)
_ESCAPED = {"\\t": "\t", "\\\\": "\\"}  #: escapes typed on the command line, and what they mean


class InputOption(click.Option):
    """An option about the inputs; ``formats`` are the input formats that it applies to: if empty, all formats."""

    def __init__(self, names: str, help_text: str, **settings: Any) -> None:
        super().__init__(names.split(), help=help_text, **settings)
        self.formats = [name for name, fields in _OPTIONS_OF_FORMAT.items() if self.name in fields]


def _several_paths(names: str, help_text: str, metavar: str) -> InputOption:
    return InputOption(names, help_text, metavar=metavar, multiple=True)


def _turns_off(names: str, help_text: str) -> InputOption:
    return InputOption(names, help_text, flag_value=False, default=None, type=bool)


_INPUT_OPTIONS = [
    _several_paths(
        "--input",
        "A path, folder, glob or URL, or several that form one input, a query or the name of a table; repeat for more.",
        "[NAME=]PATH...",
    ),
    _several_paths(
        "--input-list", "A file with one path or URL per line (or terminated by NUL), or a query; - reads stdin.", "FILE"
    ),
    _several_paths("--side-input", "A path passed to every process as a whole, not split into mini-batches.", "NAME=PATH"),
    InputOption(
        "--format", "Format of the inputs (default: files).", type=click.Choice(list(_OPTIONS_OF_FORMAT)), default="files"
    ),
    InputOption("--uri", "The database of a query: sqlite:///FILE or postgresql://USER@HOST:PORT/DATABASE.", metavar="URI"),
    InputOption("--partition-format", "Pattern for the end of a file's path: {user}/{day:yyyy/MM/dd}/*", metavar="TEXT"),
    InputOption(
        "--keep-column keep_columns",
        "A column that run() gets, for tables; columns without this option are not read. Can be repeated.",
        metavar="NAME",
        multiple=True,
    ),
    InputOption(
        "--drop-column drop_columns",
        "A column of tables that run() does not get; can be repeated.",
        metavar="NAME",
        multiple=True,
    ),
    InputOption(
        "--table-version version",
        "Version of a Delta table, or snapshot of an Iceberg table (default: the newest).",
        metavar="NUMBER",
    ),
    InputOption("--delimiter", r"Field separator of delimited text (default: ,); \t is a tab.", metavar="C"),
    InputOption("--quote", "Quote character (default: \"); '' for none.", metavar="C"),
    InputOption("--escape", "Escape character.", metavar="C"),
    _turns_off("--no-double-quote double_quote", "Do not read two quotes in a quoted field as one quote."),
    _turns_off("--no-header header", "The first record is data, not a header."),
    InputOption("--decimal", "Decimal point (default: .).", metavar="C"),
    InputOption(
        "--column-type column_types",
        "The type of a column: string, int64, Int64, float64 or boolean; repeat for further columns.",
        metavar="NAME=TYPE",
        multiple=True,
    ),
    InputOption(
        "--na-value na_values",
        "A string that stands for a missing value, in addition to those of pandas; can be repeated.",
        metavar="TEXT",
        multiple=True,
    ),
    _turns_off(
        "--no-default-na keep_default_na",
        "Read NA, null, empty fields and the like as strings; only the strings in --na-value stand for missing values.",
    ),
    InputOption("--encoding", "Encoding of delimited text and JSON lines (default: utf-8).", metavar="NAME"),
    InputOption(
        "--compression",
        "Compression of delimited text and JSON lines (default: infer).",
        type=click.Choice(["infer", *COMPRESSIONS, "none"]),
    ),
    InputOption("--allow-empty", "Allow an input without items.", is_flag=True),
]
_FORMAT_OPTIONS = {str(option.name): option for option in _INPUT_OPTIONS if option.formats}
_STEP_OPTIONS = [
    click.Option(["--output"], metavar="PATH", help="Folder or URL for the result; run requires it for append_row."),
    click.Option(["--name"], help="Name of the step (default: that of CONFIG)."),
    click.Option(
        ["--set"], multiple=True, metavar="FIELD=VALUE", help="Override a field of CONFIG, written as in YAML; can be repeated."
    ),
]


class StepCommand(Command):
    """A command with the options of a step; arguments after ``--`` on the command line belong to the script."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params = [*_INPUT_OPTIONS, *_STEP_OPTIONS, *self.params]

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the parts of the usage line."""
        return [*super().collect_usage_pieces(ctx), "[-- ARGUMENTS]"]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments of the command line."""
        own_arguments, ctx.params["arguments"] = split_arguments(args)
        return super().parse_args(ctx, join_inputs(own_arguments))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of the inputs, then the others."""
        for title, is_about_inputs in (("Inputs", True), ("Options", False)):
            options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
            records = [option.get_help_record(ctx) for option in options if isinstance(option, InputOption) is is_about_inputs]
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])


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


def join_inputs(arguments: Sequence[str]) -> list[str]:
    r"""Join the paths after each ``--input`` with NUL to one value: an option of click cannot take any number of values.

    >>> join_inputs(["--input", "a", "b", "--input", "c", "--name", "n"])
    ['--input', 'a\x00b', '--input', 'c', '--name', 'n']
    """
    joined: list[str] = []
    is_input = False
    for argument in arguments:
        is_option = argument.startswith("-") and argument != "-"
        if is_option:
            is_input = argument == "--input"
        if is_input and not is_option and joined[-1] != "--input":
            joined[-1] += f"\0{argument}"
        else:
            joined.append(argument)
    return joined


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the program's own arguments, and the script's: those after the first ``--``.

    >>> split_arguments(["run", "c.yml", "--", "--model", "m"])
    (['run', 'c.yml'], ['--model', 'm'])
    """
    if "--" not in arguments:
        return list(arguments), []
    index = list(arguments).index("--")
    return list(arguments[:index]), list(arguments[index + 1 :])


def read_step_options(values: Mapping[str, Any], *, for_run: bool) -> StepOptions:
    """Return the step that the options describe; *for_run* also requires those that only a run needs.

    Raises:
        ValueError: An option is invalid; says which and what is expected.
        InputError: The inputs cannot be combined, such as two inputs with the same name.
    """
    config = _config(values["config"], values["set"])
    inputs = normalize_inputs(_inputs(values))
    if for_run and config.result_file_name is not None and values["output"] is None:
        raise ValueError("--output is missing: output_action append_row needs a folder or URL for the result")
    names = [str(dataset.name) for dataset in inputs]
    return StepOptions(
        name=values["name"] or step_name(values["config"]),
        config=config,
        inputs=inputs,
        output=resolve_output(values["output"], required=False),
        side_inputs=resolve_side_inputs(dict(_side_inputs(values["side_input"])), names),
        arguments=list(check_arguments(values["arguments"])),
        allow_reuse=not values.get("no_reuse", False),
    )


def step_name(config: str) -> str:
    """Return the step name that a configuration file implies.

    >>> step_name("configs/score images (v2).yml")
    'score images v2'
    """
    name = re.sub(r"[^A-Za-z0-9 _.-]+", "", Path(config).stem).strip(" _.-")
    return name[:100] or "parallel-run"


def _config(path: str, assignments: Sequence[str]) -> ParallelRunConfig:
    if not Path(path).is_file():
        raise ValueError(f"{path}: configuration file not found")
    overrides = {}
    for assignment in assignments:
        field, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set: expected FIELD=VALUE, such as node_count=2, got {assignment!r}")
        overrides[field] = read_value(text, f"--set {field}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        config = load(ParallelRunConfig, Path(path), overrides, "--set")
    for warning in caught:  # only the message, without the source line
        notify(str(warning.message))
    return config


def _inputs(values: Mapping[str, Any]) -> Iterator[Dataset]:
    """Yield the inputs in the order of their options."""
    if not values["input"] and not values["input_list"]:
        raise ValueError("no input; pass --input or --input-list")
    options = dataset_options(values["format"], {field: values[field] for field in _FORMAT_OPTIONS})
    options["allow_empty"] = values["allow_empty"]
    for joined in values["input"]:
        first, *others = joined.split("\0")
        name, path = split_name(first)
        dataset = _dataset(values["format"], [path, *others], options)
        yield dataset if name is None else dataset.as_named_input(name)
    for file in values["input_list"]:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        # A query keeps its lines: a comment ends with its line.
        paths = [os.fsdecode(data.removeprefix(codecs.BOM_UTF8))] if values["format"] == "sql" else paths_in(data)
        if not paths:
            raise ValueError(f"--input-list {file}: contains no paths")
        yield _dataset(values["format"], paths, options)


def _dataset(kind: str, paths: list[str], options: dict[str, Any]) -> Dataset:
    def describe(path: FieldPath, message: str) -> str:
        option = _FORMAT_OPTIONS.get(str(path[0])) if path else None
        return message if option is None else f"{option.opts[0]}: {message}"

    if kind == "sql":
        return construct(SqlDataset, {"query": " ".join(paths), **options}, describe)
    if kind == "files":
        return construct(FileDataset, {"paths": given_paths(paths), **options}, describe)
    table_format = kind.replace("-", "_")
    located = paths if TABLE_FORMATS[table_format].is_named else given_paths(paths)
    return construct(TabularDataset, {"paths": located, "format": table_format, **options}, describe)


def dataset_options(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are set, in the form the dataset takes; raises ValueError for one of another format."""
    options: dict[str, Any] = {}
    for field, value in values.items():
        if value is None or value == ():
            continue
        option = _FORMAT_OPTIONS[field]
        if kind not in option.formats:
            raise ValueError(f"{option.opts[0]} works only with --format {' and '.join(option.formats)}, not with {kind}")
        options[field] = _ESCAPED.get(value, value) if isinstance(value, str) else list(value) if option.multiple else value
    if options.get("compression") == "none":
        options["compression"] = None
    if "column_types" in options:
        options["column_types"] = dict(map(_name_and_type, options["column_types"]))
    return options


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
