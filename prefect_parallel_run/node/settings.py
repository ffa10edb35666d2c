"""The settings that a node receives when a run opens there, grouped by what they are about."""

from __future__ import annotations

import base64
import pickle
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from prefect_parallel_run.environments import EnvironmentPlan
from prefect_parallel_run.models import execution_prefix


class Bundle(NamedTuple):
    """The code archive of the script, as a node needs it."""

    sha256: str  #: SHA-256 of the archive
    source: str  #: importable folder, relative to where the bundle is unpacked; "." for that folder itself
    script: str  #: the script, relative to where the bundle is unpacked

    @property
    def file_name(self) -> str:
        """Return the archive's name in the run directory."""
        return f"bundle-{self.sha256}.zip"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """Options of the node itself; ``name`` and ``rows_are_remote`` are set for each node."""

    name: str = ""  #: in ledger and logs
    slots: int | None = None  #: child processes; None: 1 if the node has a GPU, else one per core
    cores: int | None = None  #: its share of the machine; None: all that the process may use
    threads: int | None = None  #: threads per process; None: its cores divided by its processes
    thread_variables: dict[str, str] = field(
        default_factory=dict
    )  #: limits set in the flow process's environment; ``threads`` overrides them
    most_slots: int  #: never more than there are mini-batches
    rows_are_remote: bool = False  #: the node cannot see the run directory: rows are fetched from it
    prints: str = ""  #: a named pipe that receives the prints and log lines of the processes, instead of their log files
    is_kept: bool = False  #: the worker outlives the flow process: the node needs a watchdog


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """The run and this execution of it."""

    execution: int  #: number of this execution, from 1; keeps file names unique
    directory: str
    run_id: str = ""  #: name of the run directory
    step: str = ""  #: name of the step


@dataclass(frozen=True, slots=True, kw_only=True)
class InterpreterSettings:
    """The interpreter of the children, and its environment variables."""

    source: str | EnvironmentPlan | None = None  #: a path, an environment that the node builds, or None: the worker's own
    variables: dict[str, str] = field(default_factory=dict, repr=False)  #: secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptSettings:
    """The entry script and its inputs other than mini-batches."""

    path: str  #: absolute
    function: str = ""  #: name of a step in it; "" for the script's own functions
    hooks: dict[str, str] | None = None  #: as in a StepSpec
    source: str  #: absolute path of the importable folder
    bundle: Bundle | None = None  #: contains both, for nodes that cannot read these paths
    arguments: tuple[str, ...] = ()
    output: str = ""  #: folder, or ""
    side_inputs: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)  #: path by name
    logging_level: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSettings:
    """How children read the items of a mini-batch."""

    modules: tuple[str, ...] = ()  #: needed to read the items; imported while a child starts
    fetches: bool = False  #: items are objects of a store, which are fetched to the node's disk


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSettings:
    """How children write rows."""

    keep: bool  #: append_row
    format: str
    header: bool = False
    csv_options: dict[str, Any] = field(default_factory=dict)  #: keywords of to_csv
    input_columns: tuple[str, ...] = ()  #: values of each item in front of its row


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLimits:
    """The limits of a child."""

    run_invocation_timeout: float  #: s
    init_timeout: float  #: s
    memory: int | None = None  #: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """All settings of a node. They are never part of a Dask task, so that no task key exposes them."""

    token: str  #: identifies this execution of the run; leases of other executions are refused
    node: NodeOptions
    run: RunContext
    interpreter: InterpreterSettings
    script: ScriptSettings
    items: ItemSettings
    rows: RowSettings
    limits: ProcessLimits

    @property
    def prefix(self) -> str:
        """Return the prefix of the node's file names in ``logs`` and ``parts``."""
        return f"{execution_prefix(self.run.execution)}{self.node.name}."

    def with_node(self, **changes: Any) -> NodeSettings:
        """Return these settings with other values in ``node``."""
        return replace(self, node=replace(self.node, **changes))

    def to_line(self) -> bytes:
        """Return the settings as one line, for a worker that has not joined its scheduler yet."""
        return base64.b64encode(pickle.dumps(self)) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> NodeSettings:
        """Return the settings that ``to_line`` wrote; the line must come from the process that started this one."""
        settings: NodeSettings = pickle.loads(base64.b64decode(line))  # noqa: S301  written by the parent process
        return settings

    def for_child(self, *, process: str, scratch: str) -> dict[str, Any]:
        """Return the first message for the child called *process*."""
        logs = f"{self.run.directory}/logs"
        return {
            "script": self.script.path,
            "function": self.script.function,
            "hooks": self.script.hooks,
            "source": self.script.source,
            "arguments": list(self.script.arguments),
            "output": self.script.output,
            "side_inputs": self.script.side_inputs,
            "models": self.script.models,
            "step": self.run.step,
            "run_id": self.run.run_id,
            "process": process,
            "scratch": scratch,
            "log_dir": logs,
            "log_file": self.node.prints or f"{logs}/{process}.log",
            "metrics_file": f"{logs}/{process}.metrics.jsonl",
            "logging_level": self.script.logging_level,
            "part": f"{self.run.directory}/parts/{process}.part" if self.rows.keep else "",
            "format": self.rows.format,
            "header": self.rows.header,
            "csv_options": self.rows.csv_options,
            "input_columns": list(self.rows.input_columns),
            "modules": list(self.items.modules),
            "memory_is_limited": self.limits.memory is not None,
            "secrets": sorted(self.interpreter.variables),  # names only; the values are in the child's environment
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """Facts that a node reports when a run opens there."""

    node: str
    host: str
    pid: int  #: process id of the Dask worker
    cores: int
    slots: int
    gpus: int = 0  #: GPUs that its processes may use
    threads: str = ""  #: threads per process, as OMP_NUM_THREADS says
