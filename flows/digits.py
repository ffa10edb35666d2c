"""Score 1,797 handwritten digits with a ParallelRunStep: export, train, score in parallel, evaluate.

Run it with ``python flows/digits.py [FOLDER]``; everything is written below FOLDER (default: out/digits).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# On a slow machine Prefect's embedded server needs longer than the 20 s it is given by default.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")

import joblib
import numpy as np
from PIL import Image
from prefect import flow, task
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from prefect_parallel_run import ComputeTarget, ParallelRunConfig, ParallelRunResult, ParallelRunStep

SCRIPTS = Path(__file__).parent / "scripts"
TRAINING = 1_000  #: digits that the classifier learns from; the others judge it


@task
def export_images(folder: Path) -> Path:
    """Write every digit as ``<number>-<label>.png`` and return their folder."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        Image.fromarray((pixels * 15).astype(np.uint8)).save(images / f"{number:04d}-{label}.png")
    return images


@task
def train(folder: Path) -> Path:
    """Train a classifier on the first digits and return the path of the model."""
    digits = load_digits()
    model = SVC(gamma=0.001).fit(digits.data[:TRAINING], digits.target[:TRAINING])
    path = folder / "model.joblib"
    joblib.dump(model, path)
    return path


@task
def evaluate(result: ParallelRunResult) -> float:
    """Return the share of digits outside the training set that were recognised."""
    assert result.output_file is not None
    lines = Path(result.output_file).read_text().splitlines()
    judged = [line.split(" ") for line in lines if int(line[:4]) >= TRAINING]
    return sum(name.partition("-")[2][0] == found for name, found in judged) / len(judged)


@flow(log_prints=True)
def digits(folder: str = "out/digits", node_count: int = 2, compute_target: ComputeTarget | None = None) -> float:
    """Export, train, score in parallel, evaluate; on this machine, or on *compute_target*, which must see *folder*."""
    place = Path(folder).absolute()
    images = export_images(place)
    model = train(place)
    config = ParallelRunConfig(
        source_directory=str(SCRIPTS),
        entry_script="score_digits.py",
        mini_batch_size="5",
        error_threshold=10,
        output_action="append_row",
        node_count=node_count,
        process_count_per_node=1,
        compute_target=compute_target or "local",
    )
    score = ParallelRunStep(
        "score-digits",
        config,
        inputs=images,
        output=place / "scores",
        arguments=["--model", str(model)],
        allow_reuse=False,
    )
    result = score()
    accuracy = evaluate(result)
    print(f"result:        {result.output_file}")
    print(f"run directory: {result.run_directory}")
    print(f"receipt:       {result.receipt}")
    print(f"accuracy:      {accuracy:.1%} of the digits it had not seen, {result.items_succeeded} images scored")
    return accuracy


if __name__ == "__main__":
    digits(*sys.argv[1:2])
