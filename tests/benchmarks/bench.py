"""What a workload is given: engines, a folder of its own, how often and how long."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measure
import peers
from engines import Engines
from family import Family
from measure import Table


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How to measure."""

    place: Path
    rounds: int
    patience: float  #: s after which a peer is not run once more
    gate: bool  #: the reduced form
    sizes: tuple[int, ...]  #: mini-batches
    megabytes: int  #: of the tables' Parquet file
    files: int  #: that planning lists
    where: bool  #: tell as well where the CPU time goes
    only: tuple[str, ...] = ()  #: engines whose name holds one of these words; empty: all
    engines: Engines = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "engines", Engines(self.place))

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Give a folder that is removed afterwards, and end all engines that were started meanwhile."""
        folder = Path(tempfile.mkdtemp(dir=self.place))
        try:
            yield folder
        finally:
            self.engines.close()
            shutil.rmtree(folder)

    def ours(self, function: str, *arguments: Any) -> Any:
        """Call a function in the flow process."""
        return self.engines.call(measure.OURS, function, *arguments)

    def watched(self, engine: str, function: str, *arguments: Any) -> tuple[Any, Family]:
        """Call a function in an engine's process; return its answer, and what was seen of the process and its descendants."""
        families: list[Family] = []

        def watch(pid: int) -> Family:
            families.append(Family(pid))
            return families[0]

        return self.engines.call(engine, function, *arguments, watch=watch), families[0]

    def wants(self, name: str) -> bool:
        return not self.only or any(word in name for word in self.only)

    def peers(
        self, names: tuple[str, ...], run: Callable[[str], measure.Run], mini_batches: int = 0
    ) -> tuple[dict[str, measure.Run], dict[str, str]]:
        """Return those peers that can be run here with so many mini-batches, and why the others cannot."""
        can: dict[str, measure.Run] = {}
        left_out: dict[str, str] = {}
        for name in filter(self.wants, names):
            why = peers.missing(name)
            if why is None and mini_batches > peers.PEERS[name].most:
                why = f"it is run with {peers.PEERS[name].most:,} mini-batches at most"
            if why is None:
                can[name] = run(name)
            else:
                left_out[name] = why
        return can, left_out

    def in_turn(
        self,
        workload: str,
        case: str,
        runs: Mapping[str, measure.Run],
        left_out: Mapping[str, str] | None = None,
        **about: Any,
    ) -> Iterator[Table]:
        """Run all engines in turn and yield what was measured."""
        wanted = {name: run for name, run in runs.items() if self.wants(name)}
        found, failed = measure.in_turn(wanted, self.rounds, self.patience)
        yield from measure.tables(workload, case, found, left_out=left_out, failed=failed, **about)

    def in_turn_by_part(
        self,
        workload: str,
        case: str,
        unit: str,
        runs: Sequence[tuple[measure.Run, Mapping[str, str]]],
        **about: Any,
    ) -> Iterator[Table]:
        """Run functions in turn that measure several things at once; each of these has a row, by the name given for it."""
        parts: measure.Found = {name: [] for _, names in runs for name in names.values()}
        for _ in range(self.rounds):
            for run, names in runs:
                found = run()
                for part, name in names.items():
                    parts[name].append({unit: found[part]})
        yield from measure.tables(workload, case, parts, **about)
