"""Like counts.py, but run() waits until as many processes as --processes says have called init()."""

import os
import sys
import time

from counts import LOG, init, note  # noqa: F401  init() is called here too

PROCESSES = int(sys.argv[sys.argv.index("--processes") + 1])


def run(mini_batch, context):
    note("run", context.minibatch_index, context.try_number)
    while True:
        with open(LOG) as file:
            if sum(line.startswith("init ") for line in file) >= PROCESSES:
                return [os.path.basename(path) for path in mini_batch]
        time.sleep(0.005)
