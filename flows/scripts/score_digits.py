"""Entry script: recognises handwritten digits in PNG files."""

from __future__ import annotations

import argparse
from pathlib import Path

import joblib
import numpy as np
from PIL import Image

from prefect_parallel_run import EntryScript


def init() -> None:
    """Load the model, once per process."""
    global model, scored  # noqa: PLW0603  a script's state lives as long as its process
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    args, _ = parser.parse_known_args()
    model = joblib.load(args.model)
    scored = 0


def run(mini_batch: list[str]) -> list[str]:
    """Return ``<file name> <digit>`` for every image in the mini-batch."""
    global scored  # noqa: PLW0603  the same
    pixels = np.stack([np.asarray(Image.open(path)).reshape(-1) / 15 for path in mini_batch])
    scored += len(mini_batch)
    return [f"{Path(path).name} {digit}" for path, digit in zip(mini_batch, model.predict(pixels), strict=True)]


def shutdown() -> None:
    """Say how many images this process has scored."""
    EntryScript().logger.info("scored %d images", scored)
