"""Runs a step with few mini-batches and one with many, and prints what the process held before and at most during the second.

python held_flow.py SCRIPTS FEW MANY OUTPUT
"""

import json
import sys
from pathlib import Path

from prefect_parallel_run import ParallelRunConfig, ParallelRunStep


def megabytes(field):
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def run(scripts, folder, output):
    config = ParallelRunConfig(
        source_directory=scripts,
        entry_script="echo.py",
        mini_batch_size=1,
        error_threshold=0,
        output_action="append_row",
        node_count=2,
        process_count_per_node=1,
    )
    return ParallelRunStep("held", config, inputs=folder, output=f"{output}/{Path(folder).name}")()


if __name__ == "__main__":
    scripts, few, many, output = sys.argv[1:]
    run(scripts, few, output)
    before = megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    result = run(scripts, many, output)
    held = {"before": before, "peak": megabytes("VmHWM")}
    print(json.dumps({**held, "succeeded": result.mini_batches_succeeded, "pandas": "pandas" in sys.modules}))
