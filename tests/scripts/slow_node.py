"""Like counts.py, but on one of two nodes everything takes long: on that of the process that makes the folder --claim first.

The other one waits until that has begun a mini-batch.
"""

import os
import sys
import time

from counts import note

CLAIM = sys.argv[sys.argv.index("--claim") + 1]
FAST = float(sys.argv[sys.argv.index("--fast") + 1])
SLOW = float(sys.argv[sys.argv.index("--slow") + 1])
BEGUN = os.path.join(CLAIM, "begun")

try:
    os.mkdir(CLAIM)
    SECONDS = SLOW
except FileExistsError:
    SECONDS = FAST


def run(mini_batch, context):
    note("run", context.minibatch_index, context.try_number)
    if SECONDS == SLOW:
        open(BEGUN, "w").close()
    while not os.path.exists(BEGUN):
        time.sleep(0.005)
    time.sleep(SECONDS)
    return [os.path.basename(path) for path in mini_batch]
