"""Uneven mini-batches: how much longer than the best possible schedule it takes, first begin to last end.

The best possible is the larger of what there is to do divided by two, and the longest mini-batch. The greedy row is what an
engine without any overhead would take that hands out one at a time, in order: computed, not measured. Where one node is
slower than the other, the best possible is what both get done together at their own pace.
"""

from __future__ import annotations

import functools
import heapq
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import cpu_bound
import steps
from bench import Bench
from measure import OURS, EngineFailedError, Run, Table

_PEERS = ("multiprocessing.Pool.imap_unordered", "distributed Client.map")
GREEDY = "greedy in order, computed"
UNIT = "span ÷ best possible"
_SLOWER = 10  #: times: one node of two
_SPECULATIVE = f"{OURS}, speculative_execution"


def measure(bench: Bench) -> Iterator[Table]:
    short, long = 0.005, 2.0
    few = random.Random(8).sample(range(500), 5)
    spread = [long if index in few else short for index in range(500)]
    yield from _measure(bench, "495 x 5 ms, 5 x 2 s among them", spread, max(sum(spread) / 2, long))
    last = [*[short] * 499, long]
    yield from _measure(bench, "499 x 5 ms, then one of 2 s", last, max(sum(last) / 2, long))
    slow = [0.02] * 200
    best = sum(slow) / (1 + 1 / _SLOWER)
    yield from _measure(bench, "200 x 20 ms, one node 10 times slower", slow, best, slow_node=True)


def greedy(seconds: Sequence[float], slots: int) -> float:
    """Return how long it takes when each slot takes the next one as soon as it is free.

    >>> greedy([1, 1, 1, 3], 2)
    4
    """
    free = [0] * slots
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)


def _measure(bench: Bench, case: str, seconds: list[float], best: float, *, slow_node: bool = False) -> Iterator[Table]:
    with bench.folder() as folder:
        given = steps.make_files(folder, len(seconds), lambda index: f"{index:07d}_{seconds[index]}")
        script = "sleep.py"
        locks = (folder / f"lock-{number}" for number in range(1 << 30))

        def peer(name: str) -> Run:
            def run() -> dict[str, float]:
                target = folder / "rows.txt"
                function = "sleep_by_node" if slow_node else "sleep"
                engine = f"{name}, one of many" if slow_node else name
                bench.engines.call(engine, "uneven:set_lock", str(next(locks)))
                bench.engines.call(engine, "peers:run", name, function, str(given.listed), 1, str(target))
                times = cpu_bound.spans(target)
                return {UNIT: (max(end for _, end in times) - min(began for began, _ in times)) / best}

            return run

        def ours(*, speculative: bool = False) -> dict[str, float]:
            fields: dict[str, object] = {"mini_batch_size": 1}
            if slow_node:
                fields |= {"node_count": 2, "process_count_per_node": 1, "speculative_execution": speculative}
                fields["arguments"] = ["--lock", str(next(locks))]
            found = bench.ours("steps:work_over", str(given.folder), 1, script, None, True, fields)
            return {UNIT: found["span"] / best}

        can, left_out = bench.peers(_PEERS, peer, len(seconds))
        runs: dict[str, Run] = {OURS: ours, **can}
        if not slow_node:
            runs[GREEDY] = lambda: {UNIT: greedy(seconds, steps.PROCESSES) / best}
        elif why := _refusal(bench, folder):
            left_out[_SPECULATIVE] = why
        else:
            runs[_SPECULATIVE] = functools.partial(ours, speculative=True)
        yield from bench.in_turn("uneven", case, runs, left_out)


def set_lock(path: str) -> None:
    """Name the lock whose first comer is slow, for the workers that this process starts."""
    import os

    os.environ["LOCK"] = path


def _refusal(bench: Bench, folder: Path) -> str | None:
    """Return why speculative execution cannot be asked for, or None."""
    try:
        bench.ours("uneven:ask_for_speculation", str(folder))
    except EngineFailedError as error:
        if "speculative_execution" not in str(error):
            raise
        return "this version refuses it"
    return None


def ask_for_speculation(folder: str) -> None:
    """Raise ValueError where speculative_execution is refused."""
    steps.make_step("sleep.py", folder, Path(folder, "out"), speculative_execution=True)
