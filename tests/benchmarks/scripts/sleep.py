"""Sleeps as many seconds as the file's name says; ten times as many in the process that is first at the lock it is given."""

import os
import sys
import time

FACTOR = [1]


def init():
    if len(sys.argv) > 2:
        try:
            os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            FACTOR[0] = 10
        except FileExistsError:
            pass


def run(mini_batch):
    time.sleep(FACTOR[0] * sum(float(path.rpartition("_")[2]) for path in mini_batch))
    return mini_batch
