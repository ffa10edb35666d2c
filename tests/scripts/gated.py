"""Like counts.py, but mini-batch --gate runs until a file --open appears; with --import, the import waits for that as well.

With --poison, that mini-batch fails at once.
"""

import os
import sys
import time

from counts import note

GATE = int(sys.argv[sys.argv.index("--gate") + 1])
POISON = int(sys.argv[sys.argv.index("--poison") + 1]) if "--poison" in sys.argv else -1
OPEN = sys.argv[sys.argv.index("--open") + 1]


def wait():
    while not os.path.exists(OPEN):
        time.sleep(0.005)


if "--import" in sys.argv:
    note("importing", os.getpid())
    wait()


def run(mini_batch, context):
    note("run", context.minibatch_index, context.try_number)
    if context.minibatch_index == POISON:
        raise ZeroDivisionError("division by zero")
    if context.minibatch_index == GATE:
        wait()
    return [os.path.basename(path) for path in mini_batch]
