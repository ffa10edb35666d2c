"""init() fails in every process but the one that makes the file --claim. run() waits for the file --open."""

import os
import sys
import time

from counts import note

CLAIM = sys.argv[sys.argv.index("--claim") + 1]
OPEN = sys.argv[sys.argv.index("--open") + 1]


def init():
    os.close(os.open(CLAIM, os.O_CREAT | os.O_EXCL))


def run(mini_batch, context):
    note("run", context.minibatch_index, context.try_number)
    while not os.path.exists(OPEN):
        time.sleep(0.005)
    return [os.path.basename(path) for path in mini_batch]
