"""Checks that the DataFrame has the columns, and returns it."""

import sys

import pandas as pd  # noqa: F401  before the first mini-batch, as in a script that uses it
import pyarrow.parquet  # noqa: F401

wanted = sys.argv[2].split(",")


def run(mini_batch):
    assert set(wanted) <= set(mini_batch.columns)
    return mini_batch
