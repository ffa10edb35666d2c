"""What people use today to run a function over many mini-batches: every engine with two processes, results in order.

A mini-batch is a list, its result a list of as many texts. Opening pool or cluster and a first call in every process come
before the clock, which runs until the last row is in one file. Each function here is called in an engine's own process.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import logging
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import functions

PROCESSES = 2
MiniBatches = Sequence[list[str]]
Function = Callable[[list[str]], list[str]]
Open = Callable[[], Iterator[Callable[[Function, MiniBatches], Iterable[str]]]]  #: yields what returns rows in order


def _flat(results: Iterable[Iterable[str]]) -> Iterator[str]:
    return itertools.chain.from_iterable(results)


def pool(chunk: int) -> Iterator[Any]:
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as workers:
        yield lambda function, work: _flat(workers.imap(function, work, chunksize=chunk))


def pool_unordered() -> Iterator[Any]:
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as workers:
        yield lambda function, work: _flat(workers.imap_unordered(function, work))


def futures(chunk: int) -> Iterator[Any]:
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as workers:
        yield lambda function, work: _flat(workers.map(function, work, chunksize=chunk))


def joblib_batches(batch: str | int) -> Iterator[Any]:
    import joblib
    from joblib.externals.loky import get_reusable_executor

    parallel = joblib.Parallel(PROCESSES, batch_size=batch, return_as="generator")
    yield lambda function, work: _flat(parallel(joblib.delayed(function)(mini_batch) for mini_batch in work))
    get_reusable_executor().shutdown(wait=True)


@contextmanager
def dask_cluster() -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=PROCESSES,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def client_map() -> Iterator[Any]:
    with dask_cluster() as client:
        yield lambda function, work: _flat(client.gather(client.map(function, list(work), pure=False)))


def dask_bag() -> Iterator[Any]:
    import dask.bag

    with dask_cluster() as client:
        yield lambda function, work: _flat(dask.bag.from_sequence(work).map(function).compute(scheduler=client))


def prefect_dask() -> Iterator[Any]:
    from prefect import flow, task
    from prefect_dask import DaskTaskRunner

    with dask_cluster() as client:

        @flow(task_runner=DaskTaskRunner(address=client.scheduler.address))
        def mapped(function: Any, work: Any) -> Any:
            return task(function, name="mapped").map(work).result()

        yield lambda function, work: _flat(mapped(function, list(work)))


def _ray() -> Any:
    import ray

    ray.init(num_cpus=PROCESSES, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    return ray


def ray_tasks() -> Iterator[Any]:
    ray = _ray()
    try:
        call = ray.remote(_call)
        yield lambda function, work: _flat(ray.get([call.remote(function.__name__, mini_batch) for mini_batch in work]))
    finally:
        ray.shutdown()


def ray_data(*, actors: bool = False) -> Iterator[Any]:
    """Yield what runs a function by Ray Data: in tasks, or in actors, which Ray starts once the clock runs."""
    ray = _ray()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.print_on_execution_start = False

    def run(function: Function, work: MiniBatches) -> Iterator[str]:
        name, size = function.__name__, len(work[0])

        def mapped(batch: dict[str, Any]) -> dict[str, Any]:
            return {"row": _call(name, [str(path) for path in batch["path"]])}

        data = ray.data.from_items([{"path": path} for path in _flat(work)])
        options: dict[str, Any] = {"batch_size": size, "batch_format": "numpy"}
        if actors:
            options |= {"fn_constructor_args": (name,), "compute": ray.data.ActorPoolStrategy(size=PROCESSES)}
        for row in data.map_batches(_Actor if actors else mapped, **options).iter_rows():
            yield str(row["row"])

    try:
        yield run
    finally:
        ray.shutdown()


class _Actor:
    """Calls a function, in a process that keeps the function's model."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"row": _call(self._name, [str(path) for path in batch["path"]])}


def _call(name: str, mini_batch: list[str]) -> list[str]:
    return getattr(functions, name)(mini_batch)


def spark() -> Iterator[Any]:
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        SparkSession.builder.master(f"local[{PROCESSES}]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.memory", "4g")
        .config("spark.driver.maxResultSize", "0")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )

    def run(function: Function, work: MiniBatches) -> Iterator[str]:
        import pandas as pd

        name = function.__name__

        def mapped(frames: Iterator[Any]) -> Iterator[Any]:
            for frame in frames:
                yield pd.DataFrame({"row": _call(name, list(frame["path"]))})

        session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(len(work[0])))
        frame = session.createDataFrame(pd.DataFrame({"path": list(_flat(work))}))
        for row in frame.mapInPandas(mapped, "row string").toLocalIterator(prefetchPartitions=True):
            yield row["row"]

    try:
        yield run
    finally:
        session.stop()


@dataclass(frozen=True)
class Peer:
    """An engine to compare with."""

    open: Callable[[], Iterator[Any]]
    needs: tuple[str, ...] = ()  #: modules
    most: int = 1 << 60  #: mini-batches that it finishes in reasonable time, with a function that does nothing


PEERS = {
    "multiprocessing.Pool.imap, chunk 100": Peer(lambda: pool(100)),
    "multiprocessing.Pool.imap, chunk 1": Peer(lambda: pool(1)),
    "multiprocessing.Pool.imap_unordered": Peer(pool_unordered),
    "concurrent.futures, chunk 100": Peer(lambda: futures(100)),
    "concurrent.futures, chunk 1": Peer(lambda: futures(1), most=10_000),
    "joblib, automatic batches": Peer(lambda: joblib_batches("auto"), ("joblib",), 100_000),
    "joblib, batches of 1": Peer(lambda: joblib_batches(1), ("joblib",), 10_000),
    "distributed Client.map": Peer(client_map, ("distributed",), 10_000),
    "dask.bag": Peer(dask_bag, ("distributed",), 10_000),
    "Ray tasks": Peer(ray_tasks, ("ray",), 10_000),
    "Ray Data map_batches": Peer(ray_data, ("ray",), 10_000),
    "Ray Data map_batches, actors": Peer(lambda: ray_data(actors=True), ("ray",), 10_000),
    "PySpark mapInPandas": Peer(spark, ("pyspark",), 1_000),
    "Prefect task.map, prefect-dask": Peer(prefect_dask, ("prefect_dask",), 200),
}


def missing(name: str) -> str | None:
    """Return why a peer cannot be run here, or None."""
    for module in PEERS[name].needs:
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    return "there is no Java" if name.startswith("PySpark") and shutil.which("java") is None else None


def run(name: str, function: str, listed: str, size: int, target: str) -> dict[str, Any]:
    """Run a function over mini-batches with a peer; called in the peer's own process.

    Args:
        name: Of the peer.
        function: Of functions.py.
        listed: File with a path per line.
        size: Paths in a mini-batch.
        target: File for the rows.

    Returns:
        ``opening`` (s, until the first call is through) and ``seconds`` (from then until the rows are in the file).
    """
    work = mini_batches(listed, size)
    called = getattr(functions, function)
    began = time.perf_counter()
    with contextmanager(PEERS[name].open)() as run_over:
        first = [[path] for path in work[0][:1] * 2 * PROCESSES]
        for _ in run_over(functions.warm_up(called), first):  # imports, and the model of a job, in every process
            pass
        opened = time.perf_counter()
        write(run_over(called, work), Path(target))
        return {"opening": opened - began, "seconds": time.perf_counter() - opened}


def mini_batches(listed: str, size: int) -> list[list[str]]:
    paths = Path(listed).read_text().splitlines()
    return [paths[start : start + size] for start in range(0, len(paths), size)]


def write(rows: Iterable[str], target: Path) -> None:
    left = iter(rows)
    with target.open("w") as file:
        while block := list(itertools.islice(left, 1_000)):
            file.write("\n".join(block) + "\n")
