"""ParallelRunConfig: how a step runs. Validated as a whole: errors name every invalid field, its value and what is expected."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from prefect_parallel_run._units import is_number, shown
from prefect_parallel_run.child.rows import ROW_FORMATS, FormatName, row_format
from prefect_parallel_run.config.base import FormModel
from prefect_parallel_run.config.validation import (
    FILE_NAME,
    FUNCTION,
    LONGEST_FILE_NAME,
    SIZE,
    Flag,
    OptionalCount,
    Seconds,
    accept,
    at_least,
    cluster,
    csv_options,
    either,
    file_name,
    find_script,
    function_name,
    input_columns,
    invalid,
    keys,
    optional,
    optional_at_least,
    paths_by_name,
    size,
    variables,
    word,
)
from prefect_parallel_run.config.where import ComputeTarget, Environment
from prefect_parallel_run.config.yaml_file import load, save

LOCAL = "local"  #: the compute target that is this machine
_DEFAULT_FILES = 10
_DEFAULT_BYTES = 1 << 20
_DEFAULT_FILE_NAME = "parallel_run_step.txt"
_DEFAULT_FOR_NONE = {"run_max_try", "run_invocation_timeout", "logging_level", "environment_variables"}
_BY_SUFFIX: dict[str, FormatName] = {row_format(name).suffix: name for name in ROW_FORMATS if row_format(name).suffix}


class ParallelRunConfig(FormModel):
    """How a step runs. The field names are those of Azure ML's ParallelRunConfig."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    # In the order of the form: required fields, what a run does, its limits, its output, where it runs, and then fields that
    # are rarely changed. The text below a field is its help text.
    entry_script: str = Field(title="Entry script", min_length=1)
    """Path of the script, relative to the source directory if there is one; a dotted name also works."""
    error_threshold: Annotated[int, at_least(-1)] = Field(title="Error threshold", ge=-1)
    """Failed items (rows of a table, files) allowed over the whole input; -1 for no limit."""
    output_action: Annotated[Literal["append_row", "summary_only"], word("append_row", "summary_only")] = Field(
        title="Output action"
    )
    """append_row publishes every returned row, by default in one file; summary_only counts them."""
    source_directory: str | None = Field(default=None, title="Source directory")
    """Folder that is copied to the nodes with the script, and importable there; empty: the script's folder."""
    entry_function: Annotated[
        Annotated[str, Field(json_schema_extra={"pattern": FUNCTION})] | None, BeforeValidator(function_name)
    ] = Field(default=None, title="Function")
    """Name of a function in the script with the decorator @parallel_run; empty: the script's own init(), run(), shutdown()."""
    mini_batch_size: Annotated[
        Annotated[int, Field(title="Number", ge=1)] | Annotated[str, Field(title="With unit", pattern=SIZE)] | None,
        BeforeValidator(size),
    ] = Field(default=None, title="Mini-batch size")
    """Files per run() (default 10), or approximate bytes of a table per run() (default 1 MB); such as 5 or 10MB."""
    partition_keys: Annotated[
        Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None, BeforeValidator(keys)
    ] = Field(default=None, title="Partition keys")
    """One mini-batch per existing combination of the values of these keys; do not set a mini-batch size as well."""
    node_count: Annotated[int, at_least(1)] = Field(default=1, ge=1, title="Nodes")
    """Nodes used; a node is one Dask worker process."""
    process_count_per_node: OptionalCount = Field(default=None, title="Processes per node")
    """Processes per node that run the script; empty: 1 on a node with a GPU, else one per core."""
    threads_per_process: OptionalCount = Field(default=None, title="Threads per process")
    """Threads that numerical libraries may start in a process: sets OMP_NUM_THREADS and similar variables. Empty: the node's
    cores divided by its processes, rounded down."""
    compute_target: Annotated[
        Annotated[str, Field(title="Name or address", min_length=1)] | ComputeTarget, BeforeValidator(cluster)
    ] = Field(default="local", title="Compute target")
    """Where to run: local (this machine), the address or scheduler file of an existing Dask cluster, a cluster class, or a
    saved block as {{ prefect.blocks.dask-compute-target.NAME }}."""
    run_invocation_timeout: Seconds = Field(default=60, title="Timeout of run(), s")
    """Seconds for one call of run(); a process that exceeds it is killed and replaced."""
    run_max_try: Annotated[int, at_least(1)] = Field(default=3, ge=1, title="Attempts")
    """Attempts per mini-batch, including the first."""
    allowed_failed_count: Annotated[Annotated[int, Field(ge=-1)] | None, optional_at_least(-1)] = Field(
        default=None, title="Allowed failed mini-batches"
    )
    """Failed mini-batches allowed; -1 or empty for no limit."""
    allowed_failed_percent: Annotated[
        Annotated[float, Field(ge=0, le=100)] | None,
        optional("a number from 0 to 100", lambda value: is_number(value) and 0 <= value <= 100),
    ] = Field(default=None, title="Allowed failed mini-batches, %")
    """Percentage of the planned mini-batches that may fail; 100 or empty for no limit."""
    append_row_file_name: Annotated[
        Annotated[str, Field(pattern=FILE_NAME, max_length=LONGEST_FILE_NAME)] | None, BeforeValidator(file_name)
    ] = Field(default=None, title="Result file")
    r"""Name of the result under the output, without ~ " # % & * : < > ? / \ { | }; empty: parallel_run_step.txt. Only
    for append_row."""
    append_row_format: Annotated[
        Annotated[FormatName, Field(title="Chosen")] | None,
        optional(either(ROW_FORMATS), lambda value: value in ROW_FORMATS),
    ] = Field(
        default=None,
        title="Result format",
        description=f"How rows are written; empty: by the file name's extension {either(_BY_SUFFIX)}, else text.",
    )
    append_row_header: Flag = Field(default=False, title="Header line")
    """Write column names as the first line of a text result."""
    append_row_max_file_size: Annotated[
        Annotated[int, Field(title="Bytes", ge=1)] | Annotated[str, Field(title="With unit", pattern=SIZE)] | None,
        BeforeValidator(size),
    ] = Field(default=None, title="Largest file of the result")
    """Bytes, or a size such as 512MB. The result is then a folder of parts; each has whole mini-batches and at most this size
    (Parquet and ORC: before compression). Empty: one file."""
    append_row_csv_options: Annotated[dict[str, Any] | None, BeforeValidator(csv_options)] = Field(
        default=None, title="Options of to_csv"
    )
    """Keywords of pandas.DataFrame.to_csv for text and csv results, such as sep, na_rep, float_format."""
    append_row_input_columns: Annotated[
        Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None, BeforeValidator(input_columns)
    ] = Field(default=None, title="Input columns")
    """Values of the item in front of its row, one per entry: path or name of a file; columns of a table, and file or row for
    the location of a row. run() must return exactly one row for every item, in the same order."""
    environment: Annotated[
        Annotated[str, Field(title="Path", min_length=1)] | Environment | None,
        optional("a path, or an Environment", lambda value: isinstance(value, str | Environment | dict)),
    ] = Field(default=None, title="Environment")
    """What the script runs in: the path of an interpreter or a virtual environment, or packages to install; empty: the
    interpreter of the Dask worker."""
    environment_variables: Annotated[dict[str, str], BeforeValidator(variables)] = Field(
        default={}, repr=False, title="Environment variables"
    )
    """Set for the script before it is imported; a JSON object such as {"TOKEN": "{{ prefect.blocks.secret.NAME }}"}.
    References to secret blocks are resolved when the step runs; values typed here are visible to all users of Prefect."""
    description: str | None = Field(default=None, title="Description")
    """Display text."""
    logging_level: Annotated[Literal["WARNING", "INFO", "DEBUG"], word("WARNING", "INFO", "DEBUG")] = Field(
        default="INFO", title="Logging level"
    )
    """Level of the package's log lines and of EntryScript().logger."""
    node_start_timeout: Seconds = Field(default=120, title="Wait for nodes, s")
    """Seconds to wait for all nodes; then the step starts with the available ones, and the rest join later."""
    min_nodes: OptionalCount = Field(default=None, title="Minimum nodes")
    """Number of nodes to start with; a cluster opened for the step then grows up to node_count while work waits, and shrinks
    again. Empty: all nodes."""
    models: Annotated[dict[str, str], BeforeValidator(paths_by_name)] = Field(default={}, title="Models")
    """Paths by name, for scripts of Azure ML: what Model.get_model_path(name) returns, and the content of AZUREML_MODEL_DIR."""
    init_timeout: Seconds = Field(default=600, title="Timeout of init(), s")
    """Seconds for one process to import the script and run init()."""
    retry_delay_seconds: Annotated[float, accept("seconds, 0 or more", lambda value: is_number(value) and value >= 0)] = Field(
        default=0, ge=0, title="Pause before a retry, s"
    )
    """Seconds before the second attempt at a mini-batch."""
    retry_backoff_factor: Annotated[float, accept("a number, 1 or more", lambda value: is_number(value) and value >= 1)] = (
        Field(default=1, ge=1, title="Growth of the pause")
    )
    """Each further pause before a retry is this many times as long, up to one hour; 1: the pauses are equal."""
    retry_jitter_factor: Annotated[float, accept("a number, 0 or more", lambda value: is_number(value) and value >= 0)] = Field(
        default=0, ge=0, title="Jitter of the pause"
    )
    """A pause of d seconds before a retry becomes one between d and d * (1 + this factor), up to one hour."""
    mini_batches_per_minute: Annotated[
        Annotated[float, Field(ge=-1)] | None,
        optional("a number above 0, or -1 (no limit)", lambda value: is_number(value) and (value > 0 or value == -1)),
    ] = Field(default=None, title="Mini-batches per minute")
    """Mini-batches that start per minute, over all processes, such as the rate limit of a service; -1 or empty for no limit."""
    process_memory_limit: Annotated[
        Annotated[int, Field(title="Bytes", ge=1)] | Annotated[str, Field(title="With unit", pattern=SIZE)] | None,
        BeforeValidator(size),
    ] = Field(default=None, title="Memory limit per process")
    """Bytes, or a size such as 4GB; a process over it is killed and its attempt fails. Empty: no limit."""
    isolate_failed_items: Flag = Field(default=False, title="Isolate failed items")
    """Halve a mini-batch that has used up its attempts until the failing items are isolated."""
    speculative_execution: Flag = Field(default=False, title="Speculative execution")
    """Near the end, run a mini-batch a second time if its node is much slower than another."""
    dashboard: Flag = Field(default=False, title="Dask dashboard")
    """Serve the Dask dashboard of a local cluster while the step runs; requires bokeh. It has no password."""

    @model_validator(mode="before")
    @classmethod
    def _drop_none(cls, values: Any) -> Any:
        """Use the default for fields that Azure allows to be None."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if value is not None or key not in _DEFAULT_FOR_NONE}

    @field_validator("entry_script", "source_directory", mode="before")
    @classmethod
    def _validate_path(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and info.field_name == "source_directory":
            return None
        if isinstance(value, Path):
            value = str(value)
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise invalid(info, value, "an existing path")
        return value.strip() if info.field_name == "entry_script" else value

    @field_validator("description", mode="before")
    @classmethod
    def _to_string(cls, value: Any) -> Any:
        return None if value is None else str(value)

    @model_validator(mode="after")
    def _check_combinations(self) -> ParallelRunConfig:
        if self.partition_keys is not None and self.mini_batch_size is not None:
            raise ValueError("set either partition_keys or mini_batch_size, not both")
        if self.min_nodes is not None and self.min_nodes > self.node_count:
            raise ValueError(f"min_nodes is {self.min_nodes}; expected at most node_count, which is {self.node_count}")
        if self.output_action == "summary_only" and self.append_row_file_name is not None:
            name = shown(self.append_row_file_name)
            raise ValueError(f"append_row_file_name is {name}, but output_action is summary_only; expected None")
        if self.append_row_max_file_size is not None:
            self._check_parts()
        if self.append_row_input_columns is not None:
            self._check_input_columns(self.append_row_input_columns)
        if self.append_row_csv_options is not None and not row_format(self.result_format).has_csv_options:
            raise ValueError(
                f"append_row_csv_options is {shown(self.append_row_csv_options)}, but rows are written as {self.result_format};"
                " expected None"
            )
        if self.source_directory is not None and not Path(self.source_directory).is_dir():
            raise ValueError(f"source_directory is {shown(self.source_directory)}; expected an existing folder")
        find_script(self.entry_script, self.source_directory)
        return self

    def _check_parts(self) -> None:
        """Raise ValueError when the result cannot be a folder of parts."""
        if self.output_action == "summary_only":
            size = shown(self.append_row_max_file_size)
            raise ValueError(f"append_row_max_file_size is {size}, but output_action is summary_only; expected None")
        if "=" in str(self.append_row_file_name):
            raise ValueError(
                f"append_row_file_name is {shown(self.append_row_file_name)}, which append_row_max_file_size makes a folder;"
                " expected a name without '=', which readers of tables take for a partition key"
            )

    def _check_input_columns(self, names: list[str]) -> None:
        """Raise ValueError when the result cannot have these columns."""
        if self.output_action == "summary_only":
            raise ValueError(f"append_row_input_columns is {shown(names)}, but output_action is summary_only; expected None")
        written = (self.append_row_csv_options or {}).get("columns")
        left_out = [name for name in names if written is not None and name not in written]
        if left_out:
            raise ValueError(
                f"append_row_csv_options['columns'] is {shown(written)}; expected {left_out[0]!r} too, which"
                " append_row_input_columns names"
            )

    @property
    def script_path(self) -> Path:
        """Return the script's absolute path."""
        return find_script(self.entry_script, self.source_directory)

    @property
    def source_path(self) -> Path:
        """Return the absolute path of the importable folder: source_directory, or the script's folder."""
        return Path(self.source_directory).resolve() if self.source_directory is not None else self.script_path.parent

    @property
    def memory_limit_bytes(self) -> int | None:
        """Return process_memory_limit in bytes."""
        return None if self.process_memory_limit is None else int(self.process_memory_limit)

    @property
    def max_file_bytes(self) -> int | None:
        """Return append_row_max_file_size in bytes."""
        return None if self.append_row_max_file_size is None else int(self.append_row_max_file_size)

    @property
    def result_file_name(self) -> str | None:
        """Return the name of the result file or folder; None for summary_only."""
        return None if self.output_action == "summary_only" else self.append_row_file_name or _DEFAULT_FILE_NAME

    @property
    def result_format(self) -> FormatName:
        """Return the format of the result file."""
        if self.append_row_format is not None:
            return self.append_row_format
        return _BY_SUFFIX.get(Path(self.append_row_file_name or "").suffix.lower(), "text")

    def mini_batch_size_for(self, kind: Literal["file", "tabular"]) -> int:
        """Return the files per mini-batch, or for tabular input its approximate bytes of source."""
        if self.mini_batch_size is None:
            return _DEFAULT_FILES if kind == "file" else _DEFAULT_BYTES
        return int(self.mini_batch_size)

    def save_to_yaml(self, path: str | Path) -> None:
        """Write the configuration to a YAML file atomically.

        Values of ``environment_variables`` are secrets and are not written: the file holds a reference ``${NAME}`` for each,
        which ``load_yaml`` resolves from the environment of the loading process.
        """
        save(Path(path), self.model_dump(mode="json", exclude_defaults=True))

    @classmethod
    def load_yaml(cls, *arguments: Any) -> ParallelRunConfig:
        """Read a configuration from a YAML file: ``load_yaml(path)``, or ``load_yaml(workspace, path)`` as in Azure.

        Raises:
            ValueError: The file is not a configuration; the error names file, line and field.
        """
        if not 1 <= len(arguments) <= 2:
            raise TypeError("load_yaml takes a path, or a workspace and a path")
        return load(cls, Path(arguments[-1]))
