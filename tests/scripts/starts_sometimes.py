"""Its init() fails in every process but the first: whoever makes the file --claim has it."""

import os
import sys

from counts import note

CLAIM = sys.argv[sys.argv.index("--claim") + 1]


def init():
    os.close(os.open(CLAIM, os.O_CREAT | os.O_EXCL))


def run(mini_batch, context):
    note("run", context.minibatch_index, context.try_number)
    return [os.path.basename(path) for path in mini_batch]
