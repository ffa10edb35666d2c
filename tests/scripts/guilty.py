"""Like poison.py, but what is wrong is a file: mini-batches with one of --guilty fail as --how says, until --mended exists."""

import os
import sys

sys.argv += ["--poison", "-1"] if "--poison" not in sys.argv else []
sys.argv += ["--log", os.devnull] if "--log" not in sys.argv else []

from poison import ACTS, HOW  # noqa: E402  it reads its arguments when it is imported

GUILTY = set(sys.argv[sys.argv.index("--guilty") + 1].split(","))
MENDED = sys.argv[sys.argv.index("--mended") + 1] if "--mended" in sys.argv else os.devnull + "/none"


def run(mini_batch):
    names = [os.path.basename(path) for path in mini_batch]
    if GUILTY & set(names) and not os.path.exists(MENDED):
        return ACTS[HOW]()
    return names
