"""Like counts.py, but on one of two nodes everything takes long: on that of the process that makes the folder --claim first."""

import os
import sys
import time

from counts import note

CLAIM = sys.argv[sys.argv.index("--claim") + 1]
FAST = float(sys.argv[sys.argv.index("--fast") + 1])
SLOW = float(sys.argv[sys.argv.index("--slow") + 1])

try:
    os.mkdir(CLAIM)
    SECONDS = SLOW
except FileExistsError:
    SECONDS = FAST


def run(mini_batch, context):
    note("run", context.minibatch_index, context.try_number)
    time.sleep(SECONDS)
    return [os.path.basename(path) for path in mini_batch]
