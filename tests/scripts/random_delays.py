"""Like gathers.py, but then sleeps for a random time, so that mini-batches end in another order than they began."""

import random
import time

import gathers
from gathers import init  # noqa: F401  the child calls it


def run(mini_batch, context):
    names = gathers.run(mini_batch, context)
    time.sleep(random.random() * 0.02)
    return names
