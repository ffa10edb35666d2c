"""The settings that a node receives when a run opens there."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from prefect_parallel_run.environments import EnvironmentPlan
from prefect_parallel_run.models import execution_prefix


class CodeBundle(NamedTuple):
    """The code archive of the script."""

    sha256: str
    source: str  #: importable folder, relative to the archive's root
    script: str  #: script, relative to the archive's root


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """All settings of a node; sent once, outside any Dask task, so that no task key exposes them."""

    token: str  #: identifies this execution of the run; leases of other executions are refused
    node: str = ""  #: the node's name in ledger and logs
    drive: int  #: number of this execution, from 1; keeps file names unique
    slots: int | None  #: child processes; None: 1 if the node has a GPU, else one per core
    most_slots: int  #: never more than there are mini-batches
    interpreter: str | None  #: path of an interpreter or a virtual environment; None: the worker's own
    environment: EnvironmentPlan | None = None  #: built on the node, instead of interpreter
    script: str  #: absolute path
    source: str  #: absolute path of the importable folder
    bundle: CodeBundle | None = None  #: contains both, for nodes that cannot read these paths
    rows_are_remote: bool = False  #: the node cannot see the run directory: rows are fetched from it
    is_kept: bool = False  #: the worker outlives the flow process: the node needs a watchdog
    arguments: tuple[str, ...]
    output: str  #: folder, or ""
    side_inputs: dict[str, str]
    models: dict[str, str] = field(default_factory=dict)  #: path by name
    step: str = ""  #: name of the step
    run_id: str = ""  #: name of the run directory
    environment_variables: dict[str, str] = field(repr=False)  #: secrets
    run_directory: str
    modules: tuple[str, ...]  #: needed to read the items; imported while a child starts
    fetches: bool  #: items are objects of a store, which are fetched to the node's disk
    keep_rows: bool  #: append_row
    row_format: str
    row_header: bool
    row_options: dict[str, Any] = field(default_factory=dict)  #: keywords of to_csv
    logging_level: str
    run_invocation_timeout: float  #: s
    init_timeout: float  #: s
    process_memory_limit: int | None  #: bytes

    @property
    def prefix(self) -> str:
        """Return the prefix of the node's file names in ``logs`` and ``parts``."""
        return f"{execution_prefix(self.drive)}{self.node}."

    def to_json(self) -> bytes:
        """Return the settings as one JSON line, for a worker that has not joined its scheduler yet."""
        return json.dumps(asdict(self), separators=(",", ":")).encode("ascii") + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> NodeSettings:
        """Return the settings that ``to_json`` wrote."""
        fields: dict[str, Any] = json.loads(line)
        if (environment := fields["environment"]) is not None:
            fields["environment"] = EnvironmentPlan(**{**environment, "requirements": tuple(environment["requirements"])})
        for key in ("arguments", "modules"):
            fields[key] = tuple(fields[key])
        return cls(**fields)

    def for_child(self, *, process: str, scratch: str) -> dict[str, Any]:
        """Return the first message for the child called *process*."""
        return {
            "script": self.script,
            "source": self.source,
            "arguments": list(self.arguments),
            "output": self.output,
            "side_inputs": self.side_inputs,
            "models": self.models,
            "step": self.step,
            "run_id": self.run_id,
            "process": process,
            "scratch": scratch,
            "log_dir": f"{self.run_directory}/logs",
            "log_file": f"{self.run_directory}/logs/{process}.log",
            "metrics_file": f"{self.run_directory}/logs/{process}.metrics.jsonl",
            "logging_level": self.logging_level,
            "part": f"{self.run_directory}/parts/{process}.part" if self.keep_rows else "",
            "format": self.row_format,
            "header": self.row_header,
            "csv_options": self.row_options,
            "modules": list(self.modules),
            "secrets": sorted(self.environment_variables),  # names only; the values are in the child's environment
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
