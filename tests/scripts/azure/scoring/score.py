"""Scores a table with a registered model, in the manner of Azure's batch samples; names beside it, helpers in its package."""

import argparse
import json
import os
from pathlib import Path

from azureml.core import Model

from .helpers.text import describe_command

HERE = os.path.dirname(os.path.realpath(__file__))


def init():
    global model, names  # noqa: PLW0603  so do Azure's samples
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_name", dest="model_name", required=True)
    args, _ = parser.parse_known_args()
    model_path = Model.get_model_path(args.model_name)
    model = json.loads(Path(model_path).read_text())
    deployed = os.path.join(os.environ["AZUREML_MODEL_DIR"], os.path.basename(model_path))
    assert json.loads(Path(deployed).read_text()) == model
    names = Path(HERE, "names.txt").read_text().split()


def run(mini_batch):
    kinds = (mini_batch["petal_length"] >= model["border"]).astype(int)
    mini_batch = mini_batch.assign(kind=[describe_command(names, kind) for kind in kinds])
    return mini_batch[["number", "petal_length", "kind"]]
