"""Coroutines of all kinds; every row says on which event loop run() ran."""

import argparse
import asyncio
import threading

from prefect_parallel_run import RetryLater, parallel_run
from prefect_parallel_run.child import event_loop

parser = argparse.ArgumentParser()
parser.add_argument("--how", default="")
parser.add_argument("--poison", type=int, default=-1)
args, _ = parser.parse_known_args()
LOOPS = []
COUNT = []
TASKS = []


async def forever(name):
    while True:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            print("cancelled", name)
            raise
        COUNT.append(name)


async def stubborn():
    event_loop._PATIENCE = 0.1
    while True:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            print("goes on")


async def fail():
    await asyncio.sleep(0)
    raise ValueError("fails at once")


async def init():
    LOOPS.append(asyncio.get_running_loop())
    TASKS.append(asyncio.create_task(forever("heart")))


async def run(mini_batch, context):
    LOOPS.append(asyncio.get_running_loop())
    if context.minibatch_index == args.poison:
        if args.how == "hang":
            await asyncio.sleep(3600)
        if args.how == "gather":
            await asyncio.gather(fail(), forever("left over"))
        if args.how == "leaves":
            TASKS.append(asyncio.create_task(forever("left over")))
        if args.how == "stubborn":
            TASKS.append(asyncio.create_task(stubborn(), name="poll"))
        if args.how == "thread":
            event_loop._PATIENCE = 0.1
            TASKS.append(asyncio.create_task(asyncio.to_thread(threading.Event().wait)))
        if args.how == "not_awaited":
            return ["row", *(fail() for _ in mini_batch)]
        if args.how == "exceptions":
            return await asyncio.gather(asyncio.sleep(0, "row"), *(fail() for _ in mini_batch), return_exceptions=True)
        if args.how == "directive":
            return [RetryLater(1)]
        if args.how == "tasks":
            return [asyncio.create_task(asyncio.sleep(0)) for _ in mini_batch]
        if args.how == "exit":
            raise SystemExit("enough")
    COUNT.clear()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return [f"{len(set(map(id, LOOPS)))} {' '.join(sorted(set(COUNT)))}" for _ in mini_batch]


async def shutdown():
    print("shutdown on", len({*map(id, LOOPS), id(asyncio.get_running_loop())}), "loop")


@parallel_run(error_threshold=0, output_action="append_row")
async def step(paths):
    return await run(paths, type("Context", (), {"minibatch_index": 0}))


step.init(init)


@parallel_run(error_threshold=0, output_action="append_row")
async def yields(paths):
    yield paths
