"""Asks, on its first try at one mini-batch, for what --code says; notes when and where every call runs."""

import argparse
import os
import time

from azureml.exceptions import ParallelRunException

parser = argparse.ArgumentParser()
parser.add_argument("--log", required=True)
parser.add_argument("--code", default=None)
parser.add_argument("--delay", type=float, default=0)
parser.add_argument("--at", type=int, nargs="*", default=[])
args, _ = parser.parse_known_args()


def note(*words):
    with open(args.log, "a") as file:
        file.write(" ".join(map(str, words)) + "\n")


def run(mini_batch, context):
    note("run", context.minibatch_index, os.getpid(), time.monotonic())
    if context.minibatch_index in args.at and context.try_number == 1:
        raise ParallelRunException("the service is busy", code=args.code, delay_seconds=args.delay)
    return list(mini_batch)


def shutdown():
    note("shutdown", -1, os.getpid(), time.monotonic())
