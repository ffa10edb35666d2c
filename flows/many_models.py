"""Train one model per store and brand, then forecast with each: two ParallelRunSteps, both partitioned by the same keys.

Run it with ``python flows/many_models.py [FOLDER]``; everything is written below FOLDER (default: out/many_models).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# On a slow machine Prefect's embedded server needs longer than the 20 s it is given by default.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")

import numpy as np
import pandas as pd
from prefect import flow, task

from prefect_parallel_run import ParallelRunConfig, ParallelRunResult, ParallelRunStep, TabularDataset

SCRIPTS = Path(__file__).parent / "scripts"
STORES, BRANDS, WEEKS = 20, ["dominicks", "minute maid", "tropicana"], 120
KEYS = ["Store", "Brand"]


@task
def make_sales(folder: Path) -> Path:
    """Write weekly sales of every store and brand, each with a trend and a season of its own, as one CSV file."""
    chance = np.random.default_rng(1)
    weeks = np.arange(WEEKS)
    tables = []
    for store in range(1000, 1000 + STORES):
        for brand in BRANDS:
            season = chance.uniform(50, 200) * np.sin(2 * np.pi * (weeks + chance.uniform(0, 52)) / 52)
            quantity = chance.uniform(500, 1500) + chance.uniform(-2, 4) * weeks + season + chance.normal(0, 20, WEEKS)
            tables.append(pd.DataFrame({"Week": weeks, "Store": store, "Brand": brand, "Quantity": quantity.round(1)}))
    sales = pd.concat(tables).sort_values(["Week", "Store", "Brand"])  # as a till would have written them
    folder.mkdir(parents=True, exist_ok=True)
    sales.to_csv(folder / "sales.csv", index=False)
    return folder / "sales.csv"


@task
def judge(forecasts: ParallelRunResult) -> float:
    """Return the mean error of the forecasts in percent of what was sold."""
    table = pd.read_csv(str(forecasts.output_file))
    return float(100 * (table["Forecast"] - table["Quantity"]).abs().mean() / table["Quantity"].mean())


@flow(log_prints=True)
def many_models(folder: str = "out/many_models") -> float:
    """Make sales, train, forecast, judge."""
    place = Path(folder).absolute()
    sales = TabularDataset.from_delimited_files([make_sales(place)])
    common = {
        "source_directory": str(SCRIPTS),
        "partition_keys": KEYS,
        "error_threshold": 0,
        "node_count": 2,
        "process_count_per_node": 1,
    }
    train = ParallelRunStep(
        "train",
        ParallelRunConfig(entry_script="train_model.py", output_action="summary_only", **common),
        inputs=sales,
        output=place / "models",
        arguments=["--models", "{output}"],
    )
    models = train()
    forecast = ParallelRunStep(
        "forecast",
        ParallelRunConfig(
            entry_script="forecast.py",
            output_action="append_row",
            append_row_file_name="forecasts.csv",
            append_row_format="csv",
            **common,
        ),
        inputs=sales,
        side_inputs={"models": models},
        output=place / "forecasts",
        arguments=["--models", "{side_inputs.models}"],
    )
    forecasts = forecast()
    error = judge(forecasts)
    print(f"{models.mini_batches_succeeded} models below {models.output}")
    print(f"{forecasts.rows} forecasts in {forecasts.output_file}, {error:.1f} % off on average")
    return error


if __name__ == "__main__":
    many_models(*sys.argv[1:2])
