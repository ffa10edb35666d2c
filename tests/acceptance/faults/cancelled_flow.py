"""A flow that runs a slow step, called or submitted, for a test that cancels it."""

import sys

from prefect import flow

from prefect_parallel_run import ParallelRunConfig, ParallelRunStep

scripts, files, output, log, how, doors = sys.argv[1:]
config = ParallelRunConfig(
    source_directory=scripts,
    entry_script="slow.py",
    mini_batch_size=2,
    error_threshold=-1,
    output_action="append_row",
    node_count=2,
    process_count_per_node=1,
    run_invocation_timeout=1000,
)
step = ParallelRunStep(
    "test", config, inputs=files, output=output, arguments=["--log", log, "--sleep", "0.3", "--doors", doors]
)


@flow
def cancelled():
    return step() if how == "called" else step.submit().result()


if __name__ == "__main__":
    cancelled()
