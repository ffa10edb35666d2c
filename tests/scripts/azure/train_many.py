"""Trains a model per group of sales, as Azure's many-models samples do: arguments at import, metrics, tags, files."""

import argparse
import json
import os

from azureml.core import Dataset, Experiment, Run, Workspace  # noqa: F401  scripts import more than they use
from azureml.core.model import Model  # noqa: F401  the same
from azureml_user.parallel_run import EntryScript

parser = argparse.ArgumentParser("train")
parser.add_argument("--target_column", type=str, required=True)
parser.add_argument("--drop_columns", type=str, nargs="*", default=[])
args, _ = parser.parse_known_args()

current_run = None


def init():
    global current_run  # noqa: PLW0603  so do Azure's samples
    logger = EntryScript().logger
    logger.info("init() is called")
    current_run = Run.get_context()
    if not current_run.id.startswith("OfflineRun"):
        logger.info("run %s of %s", current_run.id, current_run.experiment.name)


def run(input_data):
    import pandas as pd

    result = []
    output = os.environ["AZUREML_BI_OUTPUT_PATH"]
    for path in input_data:
        name = os.path.basename(path)[: -len(".csv")]
        data = pd.read_csv(path).drop(columns=args.drop_columns)
        model = {"name": name, "mean": float(data[args.target_column].mean()), "columns": list(data.columns)}
        os.makedirs(os.path.join(output, "models"), exist_ok=True)
        with open(os.path.join(output, "models", f"{name}.json"), "w") as file:
            json.dump(model, file)
        current_run.log(f"{name}_mean", model["mean"])
        current_run.log_row("sizes", group=name, rows=len(data))
        current_run.parent.tag("trained", name)
        result.append(model)
    return pd.DataFrame(result)[["name", "mean"]]
