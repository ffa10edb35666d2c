"""Computes on the rows of a DataFrame for some milliseconds: busy_rows.py --ms N."""

import sys
import time

import numpy as np
import pandas as pd  # noqa: F401  before the first mini-batch, as in a script that uses it
import pyarrow.parquet  # noqa: F401

seconds = float(sys.argv[2]) / 1000


def run(mini_batch):
    ends = time.thread_time() + seconds
    values = mini_batch.select_dtypes("number").to_numpy()
    while time.thread_time() < ends:
        values = np.sqrt(np.abs(values))
    return list(range(len(mini_batch)))
