"""Says much: every mini-batch prints and logs its number.

Mini-batch --prints writes 60 MB to stdout, waits until that file has been cut for the last time, and goes on; --crash kills the
process of every mini-batch.
"""

import os
import signal
import sys
import time

from prefect_parallel_run import EntryScript
from prefect_parallel_run.node.log_files import HEAD, MOST, TAIL

PRINTS = int(sys.argv[sys.argv.index("--prints") + 1]) if "--prints" in sys.argv else None
SECRET = os.environ.get("TOKEN_FOR_TEST", "nothing")


def init():
    EntryScript().logger.debug("this is less than anybody asked for")
    EntryScript().logger.info("in init()")


def run(mini_batch, context):
    index = context.minibatch_index
    print("mini-batch", index, flush=True)
    EntryScript().logger.info("mini-batch %d logs in with %s", index, SECRET)
    if index == PRINTS:
        for _ in range(60):
            os.write(1, b"spam" * 250_000 + b"\n")
        deadline = time.monotonic() + 60
        while not HEAD + TAIL < os.fstat(1).st_size <= MOST:  # a cut is due, or has not written the end yet
            assert time.monotonic() < deadline
            time.sleep(0.01)
        print("it was cut", flush=True)
    if "--crash" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        1 / 0  # noqa: B018  is there to be told
    except ZeroDivisionError:
        EntryScript().logger.exception("trouble \x1b[2J in %d", index)
    return [os.path.basename(path) for path in mini_batch]


def shutdown():
    EntryScript().logger.warning("good-bye")
