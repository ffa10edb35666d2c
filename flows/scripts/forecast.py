"""Entry script: forecasts one store and brand with the model that was trained for it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from train_model import features

parser = argparse.ArgumentParser()
parser.add_argument("--models", type=Path)
arguments, _ = parser.parse_known_args()


def run(mini_batch: pd.DataFrame, context: Any) -> pd.DataFrame:
    """Return the rows with a column ``Forecast``."""
    model = joblib.load(arguments.models / "{Store} {Brand}.joblib".format(**context.partition_key_value))
    return mini_batch.assign(Forecast=model.predict(features(mini_batch["Week"].to_numpy())).round(1))
