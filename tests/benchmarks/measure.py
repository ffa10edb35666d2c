"""The arithmetic of the suite: engines in turn, medians, ratios, and the gate's verdicts. Pure but for the clock it is given.

Every figure is taken from all engines in one run on one machine, one engine after the other, several times over: noise that
comes and goes then hits all of them alike, and the ratio of two medians is worth something where the figures are not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

OURS = "prefect_parallel_run"

Run = Callable[[], Mapping[str, float]]  #: one run of an engine: what was measured, by name


class EngineFailedError(Exception):
    """An engine that is installed did not do what it was asked to."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One measured quantity of several engines."""

    workload: str
    case: str
    unit: str
    values: dict[str, list[float]]  #: by engine, a value per round
    left_out: dict[str, str] = field(default_factory=dict)  #: engines that were not run here, and why
    failed: dict[str, str] = field(default_factory=dict)  #: engines that should have been, and how they ended
    notes: dict[str, str] = field(default_factory=dict)  #: what should be known about an engine's figures
    baseline: str = OURS  #: the engine that ratios are taken to
    is_share: bool = False  #: more is better

    @property
    def title(self) -> str:
        """Return what identifies the table in figures.json and gate.json."""
        return f"{self.workload}, {self.case}: {self.unit}"

    def median(self, engine: str) -> float:
        return statistics.median(self.values[engine])

    def ratio(self, engine: str) -> float | None:
        """Return how many times the baseline's median an engine's is; None where there is no baseline.

        >>> Table(workload="w", case="c", unit="s", values={OURS: [2.0, 1.0, 9.0], "peer": [5.0]}).ratio("peer")
        2.5
        """
        if self.baseline not in self.values or not self.median(self.baseline):
            return None
        return self.median(engine) / self.median(self.baseline)


Found = dict[str, list[dict[str, float]]]  #: by engine, what each round measured


def in_turn(
    engines: Mapping[str, Run], rounds: int, patience: float, clock: Callable[[], float] = time.perf_counter
) -> tuple[Found, dict[str, str]]:
    """Run all engines in turn, *rounds* times; return what each measured, and the errors of those that failed.

    Args:
        engines: By name.
        rounds: How often.
        patience: Seconds after which a peer is not run once more: a slow one keeps its first figures.
        clock: Seconds.
    """
    found: Found = {name: [] for name in engines}
    failed: dict[str, str] = {}
    spent = dict.fromkeys(engines, 0.0)
    for _ in range(rounds):
        for name, run in engines.items():
            if (spent[name] < patience or name.startswith(OURS)) and name not in failed:
                began = clock()
                try:
                    found[name].append(dict(run()))
                except EngineFailedError as error:  # the others are worth their time
                    failed[name] = str(error)
                spent[name] += clock() - began
    return found, failed


def tables(
    workload: str,
    case: str,
    found: Mapping[str, Sequence[Mapping[str, float]]],
    *,
    left_out: Mapping[str, str] | None = None,
    failed: Mapping[str, str] | None = None,
    notes: Mapping[str, str] | None = None,
    shares: Iterable[str] = (),
    baseline: str = OURS,
) -> Iterator[Table]:
    """Yield a table per quantity, in the order in which the engines first tell of them; *shares* are better when larger."""
    units = dict.fromkeys(unit for runs in found.values() for run in runs for unit in run) or {"nothing was measured": None}
    for number, unit in enumerate(units):
        values = {name: [run[unit] for run in runs if unit in run] for name, runs in found.items()}
        yield Table(
            workload=workload,
            case=case,
            unit=unit,
            values={name: numbers for name, numbers in values.items() if numbers},
            left_out=dict(left_out or {}) if number == 0 else {},
            failed=dict(failed or {}) if number == 0 else {},
            notes=dict(notes or {}) if number == 0 else {},
            baseline=baseline,
            is_share=unit in shares,
        )


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a ratio, our median divided by a peer's, may be."""

    table: str  #: its title
    peer: str
    at_most: float | None = None
    at_least: float | None = None
    ours: str = OURS


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a ratio keeps its bound."""

    bound: Bound
    ratio: float | None  #: None: nothing was measured that it could be told from
    kept: bool

    def __str__(self) -> str:
        limit = f"at most {self.bound.at_most:g}" if self.bound.at_most is not None else f"at least {self.bound.at_least:g}"
        found = "was not measured" if self.ratio is None else f"is {self.ratio:.3g}"
        what = f"{self.bound.table}: {self.bound.ours} ÷ {self.bound.peer}"
        return f"{'ok    ' if self.kept else 'FAILED'}  {what} {found}; {limit}"


def judge(bounds: Iterable[Bound], found: Iterable[Table]) -> list[Verdict]:
    """Return a verdict per bound; a bound that nothing was measured for is not kept: it would guard nothing."""
    by_title = {table.title: table for table in found}
    verdicts = []
    for bound in bounds:
        table = by_title.get(bound.table)
        ratio = None
        if table is not None and {bound.ours, bound.peer} <= table.values.keys() and table.median(bound.peer):
            ratio = table.median(bound.ours) / table.median(bound.peer)
        kept = (
            ratio is not None
            and (bound.at_most is None or ratio <= bound.at_most)
            and (bound.at_least is None or ratio >= bound.at_least)
        )
        verdicts.append(Verdict(bound=bound, ratio=ratio, kept=kept))
    return verdicts
