"""Prints what should break a protocol: binary rubbish, a line of 10 MB, to stdout and stderr, from Python and from C."""

import os
import sys


def init():
    os.write(1, bytes(range(256)) * 100)
    print('["ready"]\n["bye",""]')


def run(mini_batch, context):
    if context.minibatch_index == 1:
        sys.stdout.write("x" * 10_000_000 + "\n")
    sys.stdout.buffer.write(b"\xff\x00\xfe\n[0,1,\n")
    os.write(2, b"\x1b[2J" + bytes(range(256)))
    print([context.minibatch_index, 1, "succeeded"])
    return [len(mini_batch)]
