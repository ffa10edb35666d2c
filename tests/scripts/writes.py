"""Stores a file per mini-batch under --out."""

import os
import sys

OUT = sys.argv[sys.argv.index("--out") + 1]


def run(mini_batch, context):
    with open(os.path.join(OUT, f"{context.minibatch_index}.model"), "w") as file:
        file.write("model")
    return mini_batch
