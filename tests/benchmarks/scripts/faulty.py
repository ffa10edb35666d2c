"""Fails in the way it is told on the file named "bad", on its first try; imports pandas when it is told to.

faulty.py --how crash|timeout|raise [--import pandas]
"""

import importlib
import os
import sys
import time

HOW = sys.argv[sys.argv.index("--how") + 1]
if "--import" in sys.argv:
    importlib.import_module(sys.argv[sys.argv.index("--import") + 1])


def run(mini_batch, context):
    if context.try_number == 1 and os.path.basename(mini_batch[0]).endswith("bad"):
        if HOW == "raise":
            raise ValueError("as it was told")
        if HOW == "crash":
            os._exit(3)
        time.sleep(3600)
    return mini_batch
