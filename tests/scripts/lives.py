"""Writes a line into --log for its import, init(), every run() and shutdown(), each with its process.

--imports ok,raise,hang,scrawl,gate says what the first, second, … import does, the last one standing for all that follow,
and --inits the same of init(): "scrawl" writes to every descriptor, "gate" waits until LOG.gate is there. The mini-batches
--crash kill their process, the mini-batches --hang do not return. Those --with_spare first wait until a spare has imported
the script, those --alone until one has begun to and is gone. Every run() waits at --doors and takes --seconds.
"""

import argparse
import contextlib
import os
import signal
import time

from counts import wait_at_doors

parser = argparse.ArgumentParser()
parser.add_argument("--log")
for option in ("--crash", "--hang", "--with_spare", "--alone"):
    parser.add_argument(option, type=lambda text: [int(number) for number in text.split(",")], default=[])
for option in ("--imports", "--inits"):
    parser.add_argument(option, type=lambda text: text.split(","), default=["ok"])
parser.add_argument("--seconds", "--sleep", type=float, default=0.0)
options, _ = parser.parse_known_args()


def note(*words):
    descriptor = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
    os.close(descriptor)


def pids(what):
    with open(options.log) as log:
        return {int(line.split()[1]) for line in log if line.startswith(f"{what} ")}


def waiting():
    return {pid for pid in pids("import") - pids("init") if os.path.exists(f"/proc/{pid}")}


def wait_until(fact):
    deadline = time.monotonic() + 60
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def act(acts, name):
    number = 1
    while True:  # whoever makes the file has the number
        try:
            os.close(os.open(f"{options.log}.{name}.{number}", os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            number += 1
    how = acts[min(number, len(acts)) - 1]
    if how == "raise":
        raise ImportError(f"only one {name} works")
    if how == "scrawl":
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):
                os.write(descriptor, b"rubbish\n")
    if how == "gate":
        wait_until(lambda: os.path.exists(f"{options.log}.gate"))
    while how == "hang":
        time.sleep(1)


note("import", os.getpid())
act(options.imports, "import")
note("imported", os.getpid())


def init():
    note("init", os.getpid(), os.path.basename(os.getcwd()))
    act(options.inits, "init")


def run(mini_batch, context):
    index = context.minibatch_index
    note("run", os.getpid(), index)
    wait_at_doors()
    time.sleep(options.seconds)
    if index in options.with_spare:
        wait_until(lambda: waiting() & pids("imported"))
    if index in options.alone:
        wait_until(lambda: pids("import") - pids("init") and not waiting())
    if index in options.crash:
        note("last", os.getpid(), index)
        os.kill(os.getpid(), signal.SIGKILL)
    while index in options.hang:
        time.sleep(1)
    return [os.path.basename(path) for path in mini_batch]


def shutdown():
    note("shutdown", os.getpid())
