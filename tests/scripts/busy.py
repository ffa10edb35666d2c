"""The first call with each set of files asks to be repeated later (--seen: a folder); afterwards, files of --guilty raise."""

import os
import sys

from prefect_parallel_run import RetryLater

GUILTY = set(sys.argv[sys.argv.index("--guilty") + 1].split(","))
SEEN = sys.argv[sys.argv.index("--seen") + 1]


def run(mini_batch):
    names = [os.path.basename(path) for path in mini_batch]
    try:
        os.mkdir(os.path.join(SEEN, f"{names[0]}-{len(names)}"))
    except FileExistsError:
        if GUILTY & set(names):
            raise ValueError("guilty") from None
        return names
    raise RetryLater(0.01)
