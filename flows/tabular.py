"""Score a table by size: once from Parquet, once from CSV, both cut into mini-batches of about 64 KB.

Run it with ``python flows/tabular.py [FOLDER]``; everything is written below FOLDER (default: out/tabular).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# On a slow machine Prefect's embedded server needs longer than the 20 s it is given by default.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")

import pandas as pd
from prefect import flow, task
from sklearn.datasets import load_diabetes

from prefect_parallel_run import ParallelRunConfig, ParallelRunResult, ParallelRunStep, TabularDataset

SCRIPTS = Path(__file__).parent / "scripts"


@task
def make_tables(folder: Path) -> tuple[Path, Path]:
    """Write scikit-learn's diabetes data, twenty times over, as Parquet and as CSV; return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    once = load_diabetes(as_frame=True, scaled=False).frame
    table = pd.concat([once] * 20, ignore_index=True)
    table.insert(0, "patient", table.index)
    table.to_parquet(folder / "patients.parquet", row_group_size=2_000)
    table.to_csv(folder / "patients.csv", index=False)
    return folder / "patients.parquet", folder / "patients.csv"


@task
def compare(parquet: ParallelRunResult, csv: ParallelRunResult) -> int:
    """Return the number of rows; both results must say the same of every patient."""
    scores = [pd.read_parquet(str(parquet.output_file)), pd.read_csv(str(csv.output_file))]
    pd.testing.assert_frame_equal(*scores)
    return len(scores[0])


@flow(log_prints=True)
def tabular(folder: str = "out/tabular") -> int:
    """Score the same table from two formats and compare."""
    place = Path(folder).absolute()
    parquet_path, csv_path = make_tables(place)
    results = {}
    for kind, data in {
        "parquet": TabularDataset.from_parquet_files([str(parquet_path)]),
        "csv": TabularDataset.from_delimited_files([str(csv_path)]),
    }.items():
        config = ParallelRunConfig(
            source_directory=str(SCRIPTS),
            entry_script="score_patients.py",
            mini_batch_size="64KB",
            error_threshold=0,
            output_action="append_row",
            append_row_file_name=f"scores.{kind}",
            append_row_format=kind,
            node_count=2,
            process_count_per_node=1,
        )
        step = ParallelRunStep(f"score-{kind}", config, inputs=data, output=place / kind, allow_reuse=False)
        results[kind] = step()
        print(f"{kind}: {results[kind]}")
    rows = compare(results["parquet"], results["csv"])
    print(f"{rows} rows scored twice, with equal results")
    return rows


if __name__ == "__main__":
    tabular(*sys.argv[1:2])
