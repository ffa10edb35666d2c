"""Scores a table as scripts for a parallel job do: arguments at import, model in init(), a DataFrame per mini-batch."""

import argparse
import json
import os
from pathlib import Path

import pandas as pd

parser = argparse.ArgumentParser()
parser.add_argument("--model")
parser.add_argument("--threshold", type=float)
parser.add_argument("--language", default="none")
args, _ = parser.parse_known_args()
names = {}


def init():
    names.update(json.loads(Path(args.model, "names.json").read_text()))


def run(mini_batch):
    kinds = [names["below" if length < args.threshold else "above"] for length in mini_batch["petal_length"]]
    return pd.DataFrame({"number": mini_batch["number"], "kind": kinds, "word": os.environ["GREETING"]})
