"""Like counts.py, but every mini-batch takes --sleep seconds and waits at --doors; that of --poison fails immediately."""

import os
import sys
import time

from counts import note, wait_at_doors

SECONDS = float(sys.argv[sys.argv.index("--sleep") + 1])
POISON = int(sys.argv[sys.argv.index("--poison") + 1]) if "--poison" in sys.argv else -1


def run(mini_batch, context):
    note("run", context.minibatch_index, context.try_number)
    if context.minibatch_index == POISON:
        raise ZeroDivisionError("division by zero")
    wait_at_doors()
    time.sleep(SECONDS)
    return [os.path.basename(path) for path in mini_batch]
