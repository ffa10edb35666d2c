"""Like gathers.py, but takes a random while then, so that mini-batches end in another order than they began."""

import random
import time

import gathers
from gathers import init  # noqa: F401  it is called here too


def run(mini_batch, context):
    names = gathers.run(mini_batch, context)
    time.sleep(random.random() * 0.02)
    return names
