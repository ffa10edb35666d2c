"""What a node leaves in logs/, and tells of what its scripts log: with real processes, and whatever these do."""

import csv
import json
import os
import time
from itertools import chain

import pytest

from prefect_parallel_run.node import log_files, node_log
from prefect_parallel_run.node.log_files import HEAD, MOST
from prefect_parallel_run.node.node import Node
from prefect_parallel_run.node.node_log import HEADER, NodeLog, ProcessLog
from prefect_parallel_run.node.slot import Work

from .conftest import wait_until


def over(bench, files, script, *arguments, graceful=True, listen=None, size=10, **changes):
    """Run all mini-batches in a node, close it, whose children exit in time, and return it with their outcomes."""
    works = [Work(i, 1, b"[%d,1,%b]\n" % (i, work)) for i, work in enumerate(bench.works(files, size))]
    node = Node(bench.settings(script, *arguments, **changes))
    try:
        if listen is not None:
            node.log.on_script_log(listen)
        outcomes = [receipt[2] for work in works for receipt in node.run(work.mini_batch, [work]).receipts]
    finally:
        problems = node.close(graceful=graceful)
    assert problems == []
    return node, outcomes


def events(bench, name="node-0.processes.jsonl"):
    return [json.loads(line) for line in (bench.run / "logs" / name).read_text().splitlines()]


def told(said):
    return [tuple(line) for parcel in said for line in parcel["lines"]]


def test_every_process_is_logged(bench, files):
    """In time order, with its slot, and why and how it exited."""
    arguments = ("--log", str(bench.log), "--crash", "2,5", "--with_spare", "5,9")
    _, outcomes = over(bench, files, "lives.py", *arguments)
    assert outcomes == ["died" if number in (2, 5) else "succeeded" for number in range(10)]
    found = events(bench)
    assert [event["at"] for event in found] == sorted(event["at"] for event in found)
    lives = {}
    for event in found:
        lives.setdefault(event["process"], []).append(event)
    assert {name: [event["event"] for event in life] for name, life in lives.items()} == {
        "node-0.0.1": ["started", "ready", "ended"],
        "node-0.0.2": ["started", "ready", "ended"],
        "node-0.spare.1": ["started", "ready", "ended"],
        "node-0.spare.2": ["started", "ended"],
    }
    assert {
        name: (life[0]["slot"], life[-1]["slot"], life[-1]["reason"], life[-1]["exit"]) for name, life in lives.items()
    } == {
        "node-0.0.1": (0, 0, "died", -9),
        "node-0.0.2": (0, 0, "died", -9),
        "node-0.spare.1": (None, 0, "shut_down", 0),
        "node-0.spare.2": (None, None, "unneeded", -9),
    }
    for life in lives.values():
        assert life[0]["pid"] > 0
        if life[1]["event"] == "ready":
            assert life[1]["import_seconds"] > 0
            assert life[1]["init_seconds"] >= 0
            assert life[1]["slot"] == 0


@pytest.mark.parametrize(
    ("script", "arguments", "changes", "reason"),
    [
        ("init_raises.py", (), {}, "start_failed"),
        ("poison.py", ("--how", "hang", "--poison", "0"), {"run_invocation_timeout": 1.0}, "timed_out"),
        ("poison.py", ("--how", "hog", "--poison", "0"), {"process_memory_limit": 300_000_000}, "out_of_memory"),
        ("counts.py", (), {"graceful": False}, "stopped"),
    ],
)
def test_the_reason_of_an_exit_is_logged(bench, files, script, arguments, changes, reason):
    """By the outcome, if there is one."""
    over(bench, files, script, "--log", str(bench.log), *arguments, size=100, execution=2, **changes)
    found = events(bench, "r2.node-0.processes.jsonl")
    assert next(event["reason"] for event in found if event["event"] == "ended" and event["slot"] == 0) == reason
    started, ended = ({event["process"] for event in found if event["event"] == kind} for kind in ("started", "ended"))
    assert started == ended


def test_the_file_of_a_verbose_process_is_cut(bench, files):
    """While it lives. Both ends are kept, and the number of cut bytes."""
    _, outcomes = over(bench, files, "talks.py", "--prints", "3")
    assert outcomes == ["succeeded"] * 10
    text = (bench.run / "logs" / "node-0.0.1.stdout.txt").read_bytes()
    assert len(text) <= MOST
    assert text.startswith(b"mini-batch 0\nmini-batch 1\n")
    assert text.index(b"bytes left out here") > HEAD
    assert text.endswith(b"it was cut\n" + b"".join(b"mini-batch %d\n" % number for number in range(4, 10)))


def test_repeated_crashes_leave_few_files(bench, files, monkeypatch):
    """Those of the first and the newest processes; empty ones are removed."""
    monkeypatch.setattr(log_files, "FIRST", 1)
    monkeypatch.setattr(log_files, "NEWEST", 2)
    node, outcomes = over(bench, files, "talks.py", "--crash")
    assert set(outcomes) == {"died"}
    ended = [event["process"] for event in events(bench) if event["event"] == "ended" and event["slot"] == 0]
    assert len(ended) == 10
    kept = {f"{process}{ending}" for process in (ended[0], *ended[-2:]) for ending in (".stdout.txt", ".log")}
    own = {"node-0.processes.jsonl", "node-0.resources.csv"}
    assert {path.name for path in (bench.run / "logs").iterdir()} == kept | own
    assert node.logs().keys() == kept | own
    assert node.read("logs", f"{ended[4]}.log", 0, 10) == b""


def test_script_logs_are_published_once_and_complete(bench, files):
    """While it runs and at the end; without secrets; lines of a record stay together."""
    heard = []
    changes = {"environment_variables": {"TOKEN_FOR_TEST": "very-secret"}}
    node, outcomes = over(bench, files, "talks.py", listen=heard.append, size=25, **changes)
    assert outcomes == ["succeeded"] * 4
    said = {parcel["number"]: parcel for parcel in [*heard, *node.log.recent_logs()]}
    assert sorted(said) == list(range(1, len(said) + 1))
    lines = told(said[number] for number in sorted(said))
    assert {process for _, process, _ in lines} == {"node-0.0.1"}
    words = [(level, text.partition("\n")[0]) for level, _, text in lines]
    each = chain.from_iterable(
        [(20, f"mini-batch {number} logs in with ***"), (40, f"trouble \x1b[2J in {number}")] for number in range(4)
    )
    assert words == [(20, "in init()"), *each, (30, "good-bye")]
    tracebacks = [text for level, _, text in lines if level == 40]
    assert tracebacks[0].startswith("trouble \x1b[2J in 0\nTraceback (most recent call last):\n")
    assert tracebacks[0].endswith("\nZeroDivisionError: division by zero")
    assert "very-secret" not in str(said)


def test_a_full_disk_stops_the_logs_and_not_the_node(bench, files):
    """It is logged once."""
    (bench.run / "logs" / "node-0.processes.jsonl").symlink_to("/dev/full")
    node, outcomes = over(bench, files, "counts.py", "--log", str(bench.log))
    assert outcomes == ["succeeded"] * 10
    assert told(node.log.recent_logs()) == [(30, "node-0", "its logs are incomplete: [Errno 28] No space left on device")]
    assert not node.log._thread.is_alive()


def test_resource_usage_is_sampled(bench, files):
    """At least once, with plausible values."""
    over(bench, files, "counts.py", "--log", str(bench.log))
    with (bench.run / "logs" / "node-0.resources.csv").open(newline="") as file:
        assert file.readline() == HEADER
        file.seek(0)
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        figures = {name: float(value) for name, value in row.items()}
        assert abs(figures["time"] - time.time()) < 3600
        assert 0 <= figures["cpu_percent"] <= 100
        assert 0 < figures["memory_used"] < figures["memory_total"]
        assert figures["processes_memory"] <= figures["memory_used"]
        assert figures["disk_free"] > 0
    assert rows[-1]["processes"] == "0"


def test_the_number_of_events_is_limited(bench, monkeypatch):
    """The last line says so."""
    monkeypatch.setattr(node_log, "MOST_EVENTS", 10)
    lives = ProcessLog()
    log = NodeLog(bench.settings("counts.py"), lives)
    log.start()
    for number in range(20):
        life = lives.add(f"node-0.0.{number}", os.getpid(), 0, "1")
        life.ready(0, 0.1, 0.1)
        life.ended("died", 1)
        life.ended("stopped", None)
        if number == 1:
            wait_until((bench.run / "logs" / "node-0.processes.jsonl").exists)
    log.close()
    found = events(bench)
    assert [event["event"] for event in found] == [*["started", "ready", "ended"] * 3, "left_out"]
    assert found[-1]["reason"] == "at most 10 lines are written"


def test_deleted_files_that_azure_would_keep_are_logged(bench, files, tmp_path):
    """Once per folder, not once per process."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nos.makedirs('outputs/models', exist_ok=True)\nos.makedirs('logs', exist_ok=True)\n"
        "open('outputs/models/m', 'w').close()\ndef run(batch):\n    return batch\n"
    )
    node, outcomes = over(bench, files, str(script), slots=2, most_slots=2)
    assert set(outcomes) == {"succeeded"}
    ((level, process, text),) = told(node.log.recent_logs())
    assert (level, process) == (30, "node-0")
    assert "left files in ./outputs of its working directory" in text
    assert "EntryScript().output_dir" in text
