"""Real jobs: images through a model, texts through a pipeline. Here run() is what costs; an engine can only get in its way.

The peers' processes have one thread each, which is their best on two cores. A step limits the threads of its processes itself.
"""

from __future__ import annotations

import filecmp
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jobs
from bench import Bench
from measure import OURS, Run, Table

from prefect_parallel_run.node.gpus import visible_gpus

LIMIT = "the limit: two bare processes"
_PEERS = (
    "multiprocessing.Pool.imap, chunk 1",
    "joblib, batches of 1",
    "distributed Client.map",
    "Ray Data map_batches, actors",
)
_SMALLER = 8  #: times: the input with --gate
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A job of jobs.py and its input."""

    name: str
    case: str
    write: Callable[[Path, int], None]
    files: int
    size: int  #: files in a mini-batch
    needs: tuple[str, ...]  #: modules
    needs_gpu: bool = False


_JOBS = (
    _Job(
        name="dense_network",
        case="JPEG files through a dense network in numpy, 32 at a time",
        write=jobs.write_images,
        files=4_000,
        size=32,
        needs=("numpy", "PIL"),
    ),
    _Job(
        name="forest",
        case="JPEG files through a forest of scikit-learn, 32 at a time",
        write=jobs.write_images,
        files=4_000,
        size=32,
        needs=("sklearn", "PIL"),
    ),
    _Job(
        name="gpu_network",
        case="JPEG files through a convolutional network on a GPU, 32 at a time",
        write=jobs.write_images,
        files=4_000,
        size=32,
        needs=("torch", "PIL"),
        needs_gpu=True,
    ),
    _Job(
        name="text_pipeline",
        case="files of 250 lines through a text pipeline of scikit-learn, 4 at a time",
        write=jobs.write_texts,
        files=800,
        size=4,
        needs=("sklearn",),
    ),
)


def measure(bench: Bench) -> Iterator[Table]:
    for job in _JOBS:
        files = job.files // (_SMALLER if bench.gate else 1)
        missing = [f"{module} is not installed" for module in job.needs if importlib.util.find_spec(module) is None]
        if job.needs_gpu and not visible_gpus(os.environ):
            missing.append("no GPU was found")
        if missing:
            left_out = {OURS: missing[0]}
            yield Table(workload="real-jobs", case=job.case, unit="s", values={}, left_out=left_out)
        else:
            with bench.folder() as folder:
                yield from _measure(bench, job, files, folder)


def _measure(bench: Bench, job: _Job, files: int, folder: Path) -> Iterator[Table]:
    images, listed = folder / "files", folder / "paths.txt"
    job.write(images, files)
    listed.write_text("".join(f"{path}\n" for path in sorted(images.iterdir())))
    expected, target = folder / "expected.txt", folder / "rows.txt"

    def checked(seconds: float) -> dict[str, float]:
        if not filecmp.cmp(target, expected, shallow=False):
            raise AssertionError("other rows than the limit's")
        target.unlink()
        return {"s": seconds}

    def limit() -> dict[str, float]:
        bench.engines.call(LIMIT, "real_jobs:limit_threads")
        found = bench.engines.call(LIMIT, "bare:run", job.name, str(listed), job.size, str(expected))
        return {"s": found["seconds"]}

    def peer(name: str) -> Run:
        def run() -> dict[str, float]:
            bench.engines.call(name, "real_jobs:limit_threads")
            found = bench.engines.call(name, "peers:run", name, job.name, str(listed), job.size, str(target))
            return checked(found["seconds"])

        return run

    def ours() -> dict[str, float]:
        fields = {"mini_batch_size": job.size, "arguments": ["--job", job.name]}
        found = bench.ours("steps:work_over", str(images), 1, "real_job.py", str(target), False, fields)
        return checked(found["working"])

    limit()  # the result that all others are compared with
    can, left_out = bench.peers(_PEERS, peer, files // job.size)
    case = f"{files:,} {job.case}"
    yield from bench.in_turn("real-jobs", case, {LIMIT: limit, OURS: ours, **can}, left_out)


def limit_threads() -> None:
    """Give the processes that this process starts one thread each for numpy."""
    os.environ.update(dict.fromkeys(_THREADS, "1"))
