"""Writes a line into --log for every call, so that a test can count invocations, and returns the file names."""

import os
import sys

LOG = sys.argv[sys.argv.index("--log") + 1]


def note(*words):
    descriptor = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
    os.close(descriptor)


def init():
    note("init", os.getpid())


def run(mini_batch, context):
    note("run", context.minibatch_index, context.try_number)
    return [os.path.basename(path) for path in mini_batch]


def shutdown():
    note("shutdown", os.getpid())
