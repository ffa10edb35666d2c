"""Reading tables ahead: the same step with it, and without it (a memory limit that no process reaches turns it off).

Tables in the page cache, on the disk (their pages are dropped before each run), and in a store: a web server that answers each
request after 50 ms. Requests to the kernel cannot be turned off. The clock runs from the start of the first attempt, which
reads, to the end of the last one.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import steps
from bench import Bench
from measure import OURS, Table
from table_source import make_csv, make_parquet

AHEAD, NOT_AHEAD = f"{OURS}, reading ahead", f"{OURS}, not reading ahead"
_LATENCY = 0.05  #: s
_LARGEST = "1000GB"  #: a memory limit that no process reaches
_MINI_BATCH = 1_000_000  #: bytes


@dataclass(frozen=True, kw_only=True)
class _Case:
    kind: str  #: the format of the table
    source: str
    where: str  #: page cache, disk or store
    size: str
    processes: int = 2
    ms: int = 5  #: that run() computes on a mini-batch

    def __str__(self) -> str:
        return (
            f"{self.kind}, {self.size}, {self.ms} ms per mini-batch in run(), {self.processes} processes, from the {self.where}"
        )


def measure(bench: Bench) -> Iterator[Table]:
    with bench.folder() as folder:
        for make, kind in ((make_parquet, "parquet"), (make_csv, "delimited")):
            source = folder / "tables" / f"table.{kind}"
            source.parent.mkdir(exist_ok=True)
            make(source, bench.megabytes)
            case = _Case(kind=kind, source=str(source), where="page cache", size=f"{bench.megabytes} MB")
            for one in (case, replace(case, processes=1), replace(case, where="disk")):
                yield from _in_turn(bench, one)
            make(source, bench.megabytes // 4)
            with _slow_server(source.parent) as url:
                address = f"{url}/{source.name}"
                size = f"{bench.megabytes // 4} MB"
                yield from _in_turn(bench, replace(case, source=address, where="store", size=size, ms=100))
            source.unlink()


def _in_turn(bench: Bench, case: _Case) -> Iterator[Table]:
    def run(name: str) -> Callable[[], dict[str, float]]:
        def measured() -> dict[str, float]:
            if case.where == "disk":
                drop_pages(Path(case.source))
            return bench.engines.call(name, "read_ahead:work", asdict(case), name == AHEAD, str(bench.place))

        return measured

    yield from bench.in_turn("read-ahead", str(case), {name: run(name) for name in (NOT_AHEAD, AHEAD)}, baseline=NOT_AHEAD)


def drop_pages(path: Path) -> None:
    """Have the kernel drop the cached pages of a file."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _slow_server(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Slow, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Slow(SimpleHTTPRequestHandler):
    """Serves ranges of files, late."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        time.sleep(_LATENCY)
        path = Path(self.translate_path(self.path))
        size, asked = path.stat().st_size, self.headers.get("Range", "")
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(first or 0), min(int(last or size - 1) + 1, size)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.end_headers()
        if with_body:
            with path.open("rb") as file:
                file.seek(start)
                self.wfile.write(file.read(stop - start))

    def log_message(self, *_: object) -> None:
        pass


def work(case_fields: dict[str, Any], is_ahead: bool, place: str) -> dict[str, float]:
    """Run a step; called in a flow process."""
    from prefect_parallel_run import TabularDataset

    case = _Case(**case_fields)
    limit = {} if is_ahead else {"process_memory_limit": _LARGEST}
    fields: dict[str, Any] = {"process_count_per_node": case.processes, "output_action": "summary_only", **limit}
    inputs = TabularDataset(paths=[case.source], format=case.kind)
    arguments = ["--ms", str(case.ms)]
    with tempfile.TemporaryDirectory(dir=place) as output:
        found = steps.run_step(
            steps.make_step("busy_rows.py", inputs, Path(output), arguments=arguments, mini_batch_size=_MINI_BATCH, **fields)
        )
    return {"s": found.span}
