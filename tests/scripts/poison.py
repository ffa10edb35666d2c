"""Like counts.py, but mini-batch --poison does what --how says."""

import ctypes
import os
import signal
import subprocess
import sys
import time

from counts import note

HOW = sys.argv[sys.argv.index("--how") + 1]
POISON = int(sys.argv[sys.argv.index("--poison") + 1])


def fall(depth):
    return fall(depth + 1) + 1


def hang_in_c():
    libc = ctypes.PyDLL(None)  # PyDLL: the call keeps the interpreter's lock
    libc.sleep(1000)


def grandchild():
    subprocess.Popen(["sleep", "1000"])
    time.sleep(1000)


def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


def hog():
    held = [bytearray(50_000_000) for _ in range(20)]  # no more, however late its slot looks
    time.sleep(1000 + len(held))


ACTS = {
    "raise": lambda: 1 / 0,
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),
    "system_exit": lambda: sys.exit("enough"),
    "recursion": lambda: fall(0),
    "none": lambda: None,
    "dict": lambda: {"a": 1},
    "hang": lambda: time.sleep(1000),
    "hang_in_c": hang_in_c,
    "deaf": deaf,
    "grandchild": grandchild,
    "hog": hog,
}


def run(mini_batch, context):
    note("run", context.minibatch_index, context.try_number)
    print("before", context.minibatch_index, flush=True)
    if context.minibatch_index == POISON:
        return ACTS[HOW]()
    return [os.path.basename(path) for path in mini_batch]
