"""The public API as users write it; mypy and pyright check it, nothing runs it."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from prefect.futures import PrefectFuture
from typing_extensions import assert_type

from prefect_parallel_run import (
    ComputeTarget,
    EntryScript,
    Environment,
    FileDataset,
    FunctionStep,
    LimitExceededError,
    ParallelRunConfig,
    ParallelRunResult,
    ParallelRunStep,
    TabularDataset,
    TrialResult,
    parallel_run,
)
from prefect_parallel_run.testing import ScriptResult, run_script

config = ParallelRunConfig(
    source_directory="scripts",
    entry_script="score.py",
    mini_batch_size="10MB",
    error_threshold=-1,
    output_action="append_row",
    append_row_file_name="scores.parquet",
    node_count=2,
    process_count_per_node=4,
    environment=Environment(requirements=["numpy==2.2"]),
    environment_variables={"TOKEN": "{{ prefect.blocks.secret.token }}"},
    compute_target=ComputeTarget(cluster_class="dask_jobqueue.SLURMCluster", cluster_kwargs={"queue": "normal"}),
)
assert_type(config.node_count, int)
config.save_to_yaml("score.yml")
assert_type(ParallelRunConfig.load_yaml(Path("score.yml")), ParallelRunConfig)

step = ParallelRunStep(
    "score",
    config,
    inputs=[FileDataset.from_files(["images/*.png"])],
    output="out",
    side_inputs={"model": "model.joblib"},
    arguments=["--model", "{side_inputs.model}"],
    tags=["nightly"],
)
table = TabularDataset.from_parquet_files("table/*.parquet")
rows = TabularDataset.from_sql_query("SELECT n FROM t ORDER BY n", "sqlite:///shop.db", allow_empty=True).drop_columns("n")


@flow
def score() -> ParallelRunResult:
    result = step()
    assert_type(result, ParallelRunResult)
    future = step.submit(inputs=table)
    assert_type(future, PrefectFuture[ParallelRunResult])
    assert_type(future.result(), ParallelRunResult)
    assert_type(result.items_failed, int)
    assert_type(step.with_options(retries=2), ParallelRunStep)
    assert_type(step.try_out(2, sample=True), TrialResult)
    return result


@parallel_run(mini_batch_size=32, error_threshold=10, output_action="append_row", inputs="images/*.png")
def sizes(paths: list[str]) -> list[int]:
    return [Path(path).stat().st_size for path in paths]


@sizes.init
def load() -> None: ...


@flow
def nightly() -> ParallelRunResult:
    step: FunctionStep[..., list[int]] = sizes.with_options(name="again")
    assert_type(step.submit(), PrefectFuture[ParallelRunResult])
    assert_type(sizes.run(["a.png"]), list[int])
    sizes.run(3)  # type: ignore[arg-type]  # a checker finds wrong arguments
    load()
    assert_type(sizes.submit(output="out"), PrefectFuture[ParallelRunResult])
    return sizes(output="out")


try:
    score()
except LimitExceededError as error:
    print(error)

assert_type(run_script("score.py", ["a.png"]), ScriptResult)
EntryScript().logger.info("hello")
