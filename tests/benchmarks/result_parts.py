"""result-parts: publishing a large result from the rows that the processes have written, without the script's own work.

As one file, as a folder of parts by the flow process, and by one and two nodes with a core each. The memory is that of the flow
process at most, above what it held just before. The disk is synced in all cases, so a slow one makes all of them equal.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from zlib import crc32

from bench import Bench
from family import peak_mb
from measure import OURS, Run, Table

_FILE, _HERE = "file", "here"
_ROWS = 6_000  #: in a mini-batch of some 1 MB
_FRAMES = 8  #: different mini-batches
_PART = 64 << 20  #: bytes
HOW = {
    f"{OURS}, parts by one node": "1",
    f"{OURS}, parts by two nodes": "2",
    f"{OURS}, parts by the flow process": _HERE,
    f"{OURS}, one file": _FILE,
}


def measure(bench: Bench) -> Iterator[Table]:
    for row_format in ("text", "parquet"):
        with bench.folder() as folder:
            bench.ours("result_parts:make", str(folder), row_format, bench.megabytes)

            def run(name: str, place: str = str(folder), row_format: str = row_format) -> Run:
                return lambda: bench.engines.call(name, "result_parts:publish", place, row_format, HOW[name])

            runs = {name: run(name) for name in HOW}  # each has a flow process of its own: what one has held, the next reuses
            case = f"{bench.megabytes} MB of {row_format}"
            yield from bench.in_turn("result-parts", case, runs, baseline=next(iter(HOW)))


def make(folder: str, row_format: str, megabytes: int) -> None:
    """Write part files as two processes do, and their ledger."""
    import pandas as pd

    from prefect_parallel_run.child.rows import encode
    from prefect_parallel_run.models import Receipt
    from prefect_parallel_run.runs.ledger import Ledger

    chance = random.Random(1)
    encoded = []
    for _ in range(_FRAMES):
        columns = {f"c{column}": [chance.random() for _ in range(_ROWS)] for column in range(10)}
        encoded.append(encode(pd.DataFrame({**columns, "t": chance.choices("abcdef", k=_ROWS)}), row_format, False))
    receipts = []
    names = [f"node-{number}.0.part" for number in range(2)]
    ends = dict.fromkeys(names, 0)
    with ExitStack() as stack:
        files = {name: stack.enter_context(Path(folder, name).open("wb")) for name in names}
        while sum(ends.values()) < megabytes << 20:
            number = len(receipts)
            name = names[number % 2]
            rows, header, body = encoded[number % _FRAMES]
            length, crc = len(header) + len(body), crc32(header + body)
            files[name].write(header + body)
            location = (rows, name, ends[name], len(header), length, crc)
            receipts.append((Receipt(number, 1, "succeeded", rows, rows, 0, *location, 1.0, 0.1), "succeeded"))
            ends[name] += length
    with Ledger.create(Path(folder, "ledger.sqlite"), [_ROWS] * len(receipts)) as ledger:
        ledger.commit(receipts)


def publish(folder: str, row_format: str, how: str) -> dict[str, float]:
    """Publish the rows once, and delete the result; called in the flow process."""
    from prefect_parallel_run.output.parts import Parts
    from prefect_parallel_run.output.reduction import publish as publish_file
    from prefect_parallel_run.runs.ledger import Ledger

    target = Path(folder, "result")
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(Path(folder, "ledger.sqlite")))
        run: Any
        if how == _FILE:
            parts = stack.enter_context(Parts(Path(folder)))
            run = lambda: publish_file(ledger.places(), parts, target, row_format, "run")  # noqa: E731  a case of two
        else:
            run = _publication(ledger, target, row_format, _writer(how, stack)).publish
        Path("/proc/self/clear_refs").write_text("5")  # forget what was held at most so far
        held, began = peak_mb(), time.monotonic()
        run()
        seconds = time.monotonic() - began
        memory = peak_mb() - held
    shutil.rmtree(target, ignore_errors=True)
    target.unlink(missing_ok=True)
    return {"s": seconds, "memory of the flow process, MB": memory}


def _publication(ledger: Any, target: Path, row_format: str, write_parts: Any) -> Any:
    from prefect_parallel_run._threads import never_cancelled
    from prefect_parallel_run.output.folder import Publication, Rows

    return Publication(
        rows=Rows(ledger=ledger, source=target.parent, format=row_format, most_bytes=_PART),
        count=ledger.tally().rows,
        path=target,
        location=str(target),
        token="run",
        write_parts=write_parts,
        check_cancelled=never_cancelled,
    )


def _writer(how: str, stack: ExitStack) -> Any:
    """Return what has parts written: in this process, or on a cluster that is open until the stack is closed."""
    from prefect_parallel_run.compute.base import Request
    from prefect_parallel_run.compute.local import LocalTarget
    from prefect_parallel_run.dispatch.worker_tasks import WorkerTasks
    from prefect_parallel_run.output.part_writer import write_here, write_on_node, write_part

    if how == _HERE:
        return write_here
    nodes = int(how)
    request = Request(nodes=nodes, at_least=None, slots=1, timeout=120)
    cluster = stack.enter_context(LocalTarget().open(request, threading.Event(), Future()))
    return WorkerTasks(cluster, nodes, write_on_node, write_part, lambda _: None).run
