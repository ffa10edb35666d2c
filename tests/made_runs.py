"""Creates run directories without running anything: plan, ledger and logs as a run of any size would leave them."""

import csv
import heapq
import json
import random
import time
from pathlib import Path

from prefect_parallel_run.models import PlannedBatch, Receipt
from prefect_parallel_run.planning.planner import PlanWriter
from prefect_parallel_run.runs.executions import versions
from prefect_parallel_run.runs.ledger import Ledger, RecordedCommand
from prefect_parallel_run.runs.run_directory import RunDirectory, write_json

BEGAN = 1_760_000_000.0
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m \u202e & \"'"
TRACEBACK = f"""Traceback (most recent call last):
  File "/home/me/score/score.py", line 31, in run
    image = open(path)  # {HOSTILE}
"""
ITEMS = 10
RESOURCES = ["time", "cpu_percent", "memory_used", "memory_total", "processes", "processes_memory", "disk_free"]
PROGRESS = ["time", "planned", "finished", "succeeded", "failed", "waiting", "items_succeeded", "items_failed", "rows"]
CAUSES = [
    ("raised", "PIL.UnidentifiedImageError", "cannot identify image file {}"),
    ("raised", "ValueError", HOSTILE + " {}"),
    ("timed_out", "RunTimeout", "run() exceeded run_invocation_timeout = 60 s"),
    ("died", "SIGSEGV", "its process was killed"),
]


class Made:
    """A run directory with the expected counts."""

    def __init__(self, folder: Path) -> None:
        self.directory = RunDirectory(folder)
        self.tries = self.failed_tries = self.kills = 0
        self.seconds = 0.0  #: of all attempts


def make_run(
    folder: Path,
    mini_batches: int,
    *,
    nodes=2,
    slots=2,
    fail=0.02,
    seconds=0.5,
    logs=True,
    drives=1,
    status="succeeded",
    seed=1,
) -> Made:
    """Create a run in *folder*: a free slot takes the next mini-batch; some attempts fail, some end their process."""
    made, chance = Made(folder), random.Random(seed)
    made.directory.make()
    with PlanWriter(made.directory.plan) as writer:
        for number in range(mini_batches):
            names = [f"day={number % 28:02d}/img_{number:06d}_{item}.jpg" for item in range(ITEMS)]
            work = {"input": "images", "kind": "files", "root": "/data/images/", "names": names}
            writer.add("images", PlannedBatch(ITEMS, ITEMS * 20_000, json.dumps(work)))
        writer.finish("file", "0" * 64)
    with Ledger.create(made.directory.ledger, [ITEMS] * mini_batches) as ledger:
        end = _drive(made, ledger, chance, mini_batches, nodes, slots, fail, seconds, logs, drives)
        reason = {"failed": "error_threshold = 5 was exceeded: 40 items failed", "succeeded": ""}.get(status, "stopped")
        ledger.record(status=status, reason=reason, drives=str(drives), run_max_try="3")
        if drives == 1:
            _note_drive(ledger, 1, BEGAN, end, status, reason)
        tally = ledger.tally()
    _describe(made, status, tally)
    return made


def _drive(made, ledger, chance, mini_batches, nodes, slots, fail, seconds, logs, drives):
    """Simulate all mini-batches on a fake clock and return the time of the end."""
    share, begins, number = -(-mini_batches // drives), BEGAN, 0
    for drive in range(1, drives + 1):
        simulation = _Simulation(made, chance, nodes, slots, begins, f"r{drive}." if drive > 1 else "")
        last = min(number + share, mini_batches)
        end = simulation.run(ledger, range(number, last), fail, seconds)
        number = last
        if logs:
            simulation.write_logs(end, mini_batches)
        if drives > 1:
            _note_drive(ledger, drive, begins, end, "succeeded" if drive == drives else "interrupted", "")
        begins = end + 3_600 * drive
    return end


def _note_drive(ledger, number, began, ended, status, reason):
    config = {"error_threshold": 5, "allowed_failed_count": -1, "allowed_failed_percent": 20.0, "run_max_try": 3}
    begin = {"began": began, "host": "build-7", "versions": versions(), "config": {**CONFIG, **config}}
    end = {"ended": ended + 1.5, "status": status, "reason": reason}
    ledger.record(**{f"drive.{number}": json.dumps(begin), f"drive.{number}.end": json.dumps(end)})


CONFIG = {
    "entry_script": "score.py",
    "source_directory": "/home/me/score",
    "mini_batch_size": 10,
    "node_count": 2,
    "output_action": "append_row",
}


def _describe(made, status, tally):
    write_json(
        made.directory.description,
        {
            "step": "score images",
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(BEGAN)),
            "identity": {},
            "config": CONFIG,
            "environment_variables": ["API_TOKEN"],
            "inputs": [{"kind": "file", "name": "images", "paths": ["/data/images/**/*.jpg"], "allow_empty": False}],
            "output": "/data/out",
            "side_inputs": {"model": "/models/resnet.pt"},
            "arguments": ["--threshold", "0.5", HOSTILE],
            "home": "/home/me/.prefect",
        },
    )
    if status == "succeeded":
        receipt = {"rows": tally.rows, "output_file": "/data/out/parallel_run_step.txt", "bytes": tally.rows * 31}
        made.directory.receipt.write_text(json.dumps(receipt))


class _Simulation:
    """Slots that run mini-batches on a fake clock."""

    def __init__(self, made, chance, nodes, slots, begins, prefix):
        self.made, self.chance, self.prefix, self.begins = made, chance, prefix, begins
        self.events = {f"node-{node}": [] for node in range(nodes)}
        self.progress = []
        self._next_pid = 1000
        self._started = {}
        self._pids = {}
        self.free = []
        for node in range(nodes):
            for slot in range(slots):
                heapq.heappush(self.free, (self._start(f"node-{node}", slot, begins + 0.3), node, slot))

    def _start(self, node, slot, at):
        self._next_pid += 1
        start = self._started[node, slot] = self._started.get((node, slot), -1) + 1
        name, pid = f"{self.prefix}{node}.{slot}.{start}", self._next_pid
        self._pids[node, slot] = (name, pid)
        ready = at + 0.9 + 0.3 * self.chance.random()
        self.events[node].append({"event": "started", "at": at, "process": name, "pid": pid, "slot": slot})
        ready_event = {
            "event": "ready",
            "at": ready,
            "process": name,
            "slot": slot,
            "import_seconds": 0.6,
            "init_seconds": ready - at - 0.6,
        }
        self.events[node].append(ready_event)
        return ready

    def run(self, ledger, numbers, fail, seconds):
        todo, waiting, batch, end = list(reversed(numbers)), [], [], self.begins
        done = 0
        while todo or waiting:
            number, attempt = waiting.pop(0) if waiting else (todo.pop(), 1)
            at, node, slot = heapq.heappop(self.free)
            name = f"node-{node}"
            process, pid = self._pids[name, slot]
            took = seconds * self.chance.lognormvariate(0, 0.5)
            is_poisoned = number % 997 == 13
            fails = is_poisoned or self.chance.random() < fail
            outcome, error_type, message = self.chance.choice(CAUSES) if fails else ("succeeded", "", "")
            if is_poisoned:
                outcome, error_type, message = CAUSES[0]
            if outcome == "timed_out":
                took = seconds * 8
            receipt, state = self._receipt(number, attempt, outcome, error_type, message, at, took, name, pid)
            batch.append((receipt, state))
            if state == "waiting":
                waiting.append((number, attempt + 1))
            else:
                done += 1
            free, end = at + took + 0.001, max(end, at + took)
            if outcome in ("timed_out", "died"):
                self.events[name].append(
                    {"event": "ended", "at": at + took, "process": process, "slot": slot, "reason": outcome, "exit": -9}
                )
                self.made.kills += 1
                free = self._start(name, slot, at + took + 0.01)
            heapq.heappush(self.free, (free, node, slot))
            self.progress.append((at + took, done))
            if len(batch) == 5_000:
                ledger.commit(batch)
                batch = []
        ledger.commit(batch)
        for (node, slot), (process, _) in self._pids.items():
            self.events[node].append(
                {"event": "ended", "at": end + 0.2, "process": process, "slot": slot, "reason": "shut_down", "exit": 0}
            )
        return end + 0.3

    def _receipt(self, number, attempt, outcome, error_type, message, at, took, node, pid):
        good = ITEMS if outcome == "succeeded" else 0
        self.made.tries += 1
        self.made.failed_tries += not good
        self.made.seconds += took
        error = {} if good else {
            "error_type": error_type,
            "error": message.format(f"/data/images/img_{number:06d}_3.jpg"),
            "traceback": TRACEBACK + f"{error_type}: {message}\n",
            "fingerprint": f"{error_type}-{outcome}",
        }  # fmt: skip
        location = {"part": "p" if good else "", "offset": 0, "header": 0, "length": 0, "crc": 0}
        counts = {"items": ITEMS, "succeeded": good, "failed": ITEMS - good, "rows": good}
        receipt = Receipt(number, attempt, outcome, **counts, **location, started=at, seconds=took, node=node, pid=pid, **error)
        return receipt, "succeeded" if good else "waiting" if attempt < 3 else "failed"

    def write_logs(self, end, planned):
        logs = self.made.directory.logs
        for number, (node, events) in enumerate(self.events.items()):
            lines = [json.dumps(event) for event in sorted(events, key=lambda event: event["at"])]
            (logs / f"{self.prefix}{node}.processes.jsonl").write_text("\n".join(lines) + "\n")
            with (logs / f"{self.prefix}{node}.resources.csv").open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(RESOURCES)
                for at in _times(self.begins, end):
                    share = (at - self.begins) / (end - self.begins)
                    used = (6 + number + 5 * share + self.chance.random()) * 2**30
                    table.writerow([at, 60 + 30 * self.chance.random(), int(used), 32 * 2**30, 2, int(used / 2), 80 * 2**30])
        with (logs / f"{self.prefix}progress.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow([*PROGRESS, "remaining_seconds"])
            done, index = sorted(self.progress), 0
            for at in [*_times(self.begins, end), end]:
                while index < len(done) and done[index][0] <= at:
                    index += 1
                finished = max((n for _, n in done[:index][-50:]), default=0)
                remaining = (at - self.begins) * (planned - finished) / finished if finished else ""
                table.writerow([at, planned, finished, finished, 0, 0, 0, 0, 0, remaining])


def _times(begins, end):
    step = 1.0
    while (end - begins) / step > 1_200:
        step *= 2
    at = begins + 0.2
    while at < end:
        yield at
        at += step


def adjusted(made):
    """Record control commands: a raised limit, a pause, and one that was refused."""
    with Ledger(made.directory.ledger) as ledger:
        orders = [
            RecordedCommand("a", BEGAN + 1, "ann@host/7", '{"limits": {"error_threshold": 20}}', BEGAN + 1, "the limits are …"),
            RecordedCommand("b", BEGAN + 2, "bob@host/8", '{"pause": {}}', BEGAN + 2, "no mini-batch starts"),
            RecordedCommand("c", None, None, "<b>rubbish", None, "not valid JSON"),
        ]
        metadata = {"adjustments": json.dumps({"error_threshold": {"now": 20, "instead_of": [5]}})}
        for order in orders:
            ledger.record_command(order, metadata)
