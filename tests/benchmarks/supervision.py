"""Supervision: CPU time of the flow process and of a node while mini-batches take 200 ms and use none themselves.

A longer step less a shorter one: start and end cost both the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import steps
from bench import Bench
from measure import OURS, Table

_SECONDS = 0.2  #: of a mini-batch
_SHORT, _LONG = 100, 400  #: mini-batches: 10 and 40 s with two processes
_UNIT = "CPU s per minute"
_ROLES = {"flow process": "flow process", "Dask workers": "node, without its two children", "children": "two children"}


def measure(bench: Bench) -> Iterator[Table]:
    with bench.folder() as folder:
        short, long = (
            steps.make_files(folder / str(number), number, lambda index: f"{index:07d}_{_SECONDS}")
            for number in (_SHORT, _LONG)
        )

        def used(given: steps.Input) -> tuple[dict[str, float], float]:
            arguments = (str(given.folder), 1, "sleep.py", None, True, {"mini_batch_size": 1})
            found, family = bench.watched(OURS, "steps:work_over", *arguments)
            family.look()
            return family.cpu_seconds(), found["span"]

        def run() -> dict[str, float]:
            (few, short_span), (many, long_span) = used(short), used(long)
            minutes = (long_span - short_span) / 60
            return {role: (many.get(role, 0.0) - few.get(role, 0.0)) / minutes for role in _ROLES}

        bench.ours("steps:work_over", str(short.folder), 1, "sleep.py", None, True, {"mini_batch_size": 10})  # imports
        yield from bench.in_turn_by_part(
            "supervision", "2 processes x 200 ms, sleeping", _UNIT, [(run, _ROLES)], baseline="flow process"
        )
