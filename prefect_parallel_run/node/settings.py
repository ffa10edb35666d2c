"""What a node is told when a run opens there."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from prefect_parallel_run.environments import EnvironmentPlan
from prefect_parallel_run.models import drive_prefix


class CodeBundle(NamedTuple):
    """The script as it travels."""

    sha256: str
    source: str  #: where the importable folder is, below the one that it is unpacked to
    script: str  #: the same of the script


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """All that a node needs to run a step's mini-batches; sent once, outside any Dask task, so that no key shows it."""

    token: str  #: names this driving of the run; leases of another are refused
    node: str = ""  #: the node's name in ledger and logs
    drive: int  #: how often the run has been driven, this time included; keeps file names apart
    slots: int | None  #: child processes; None: 1 where the node has a GPU, else as many as it has cores
    most_slots: int  #: never more than there are mini-batches
    interpreter: str | None  #: path of one, or of a virtual environment; None: the worker's own
    environment: EnvironmentPlan | None = None  #: built on the node, instead
    script: str  #: absolute path
    source: str  #: absolute path of the folder that is importable
    bundle: CodeBundle | None = None  #: both, for nodes that do not see them
    rows_home: bool = False  #: the node cannot see the run directory: rows are fetched from it
    is_kept: bool = False  #: the worker stays when the flow process dies: the node must find out by itself
    arguments: tuple[str, ...]
    output: str  #: folder, or ""
    side_inputs: dict[str, str]
    models: dict[str, str] = field(default_factory=dict)  #: path by name
    step: str = ""  #: its name
    run_id: str = ""  #: name of the run directory
    environment_variables: dict[str, str] = field(repr=False)  #: secrets
    run_directory: str
    modules: tuple[str, ...]  #: that reading the items needs; imported while a process starts
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
        """Return how the names of the node's files in ``logs`` and ``parts`` begin."""
        return f"{drive_prefix(self.drive)}{self.node}."

    def to_json(self) -> bytes:
        """Return them as one line, for a worker that has not joined its scheduler yet."""
        return json.dumps(asdict(self), separators=(",", ":")).encode("ascii") + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> NodeSettings:
        """Return what ``to_json`` was called on."""
        given: dict[str, Any] = json.loads(line)
        if (environment := given["environment"]) is not None:
            given["environment"] = EnvironmentPlan(**{**environment, "requirements": tuple(environment["requirements"])})
        for key in ("arguments", "modules"):
            given[key] = tuple(given[key])
        return cls(**given)

    def for_child(self, *, process: str, scratch: str) -> dict[str, Any]:
        """Return what the child called *process* is told, as its first message."""
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
            "secrets": sorted(self.environment_variables),  # by name; the values are in the child's environment
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a node says of itself when a run opens there."""

    node: str
    host: str
    pid: int  #: of the Dask worker
    cores: int
    slots: int
    gpus: int = 0  #: that its processes may use
