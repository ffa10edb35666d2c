"""Yields its rows."""

import os


def run(mini_batch):
    for path in mini_batch:
        yield os.path.basename(path)
