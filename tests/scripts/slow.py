"""Like counts.py, but every mini-batch takes --sleep seconds; with --poison, that one fails at once."""

import os
import sys
import time

from counts import note

SECONDS = float(sys.argv[sys.argv.index("--sleep") + 1])
POISON = int(sys.argv[sys.argv.index("--poison") + 1]) if "--poison" in sys.argv else -1


def run(mini_batch, context):
    note("run", context.minibatch_index, context.try_number)
    if context.minibatch_index == POISON:
        raise ZeroDivisionError("division by zero")
    time.sleep(SECONDS)
    return [os.path.basename(path) for path in mini_batch]
