"""Fails in the way it is told when it meets the file named "bad" for the first time, and sleeps long over one named "slow".

    faulty.py --how crash|timeout|raise --watched FIFO [--import MODULE]

Whoever reads the FIFO sees its other end closed when the process is gone: the one that fails, or (raise) all of them.
"""

import importlib
import os
import sys
import time

HOW = sys.argv[sys.argv.index("--how") + 1]
WATCHED = sys.argv[sys.argv.index("--watched") + 1]
if "--import" in sys.argv:
    importlib.import_module(sys.argv[sys.argv.index("--import") + 1])


def show():
    os.write(os.open(WATCHED, os.O_WRONLY), b".")


if HOW == "raise":
    show()


def run(mini_batch, context):
    name = os.path.basename(mini_batch[0])
    if name.endswith("slow"):
        time.sleep(3600)
    if context.try_number == 1 and name.endswith("bad"):
        if HOW == "raise":
            raise ValueError("as it was told")
        show()
        if HOW == "crash":
            os._exit(3)
        time.sleep(3600)
    return mini_batch
