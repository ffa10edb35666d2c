"""What a run leaves in logs/, and what of its script's log Prefect shows."""

import csv
import json
import logging
import sqlite3
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

from prefect_parallel_run import LimitExceededError

from .conftest import wait_until

pytestmark = pytest.mark.usefixtures("shared_cluster")

COLUMNS = ("mini_batch", "attempt", "outcome", "node", "pid", "started", "seconds", "error_type")


def shown(flow_run_id):
    """Level and text of all lines that Prefect's API has of a flow run."""
    with get_client(sync_client=True) as client:
        logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])), limit=200)
    return [(log.level, log.message) for log in logs]


def agree(run_directory):
    """True when the rows of finished tries are those of the ledger."""
    with Path(run_directory, "logs", "processed_mini-batches.csv").open(newline="") as file:
        rows = sorted(tuple(row.values()) for row in csv.DictReader(file))
    connection = sqlite3.connect(Path(run_directory, "ledger.sqlite"))
    found = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM attempts").fetchall()
    connection.close()
    assert rows
    return rows == sorted((*map(str, row[:5]), f"{row[5]:.6f}", f"{row[6]:.6f}", row[7]) for row in found)


def count(path, kind):
    """Return how many events of a kind a node has recorded."""
    return sum(json.loads(line)["event"] == kind for line in path.read_text().splitlines())


def test_what_the_script_logs_is_in_the_task_runs_log(workshop):
    """At its own level, with its process in front, what belongs together together; without secrets, and without escapes."""
    ids = []

    @flow(name="talking")
    def talk():
        from prefect.runtime import flow_run

        ids.append(flow_run.id)
        fields = {"environment_variables": {"TOKEN_FOR_TEST": "very-secret"}, "process_count_per_node": 1}
        return workshop.step("talks.py", mini_batch_size=25, **fields)()

    result = talk()
    wait_until(lambda: (logging.WARNING, "node-0.0.1: good-bye") in shown(ids[0]))
    lines = shown(ids[0])
    for number in range(4):
        assert (logging.INFO, f"node-0.0.1: mini-batch {number} logs in with ***") in lines
    tracebacks = [text for level, text in lines if level == logging.ERROR]
    assert len(tracebacks) == 4
    for text in tracebacks:
        assert text.startswith("node-0.0.1: trouble \\x1b[2J in ")
        assert text.endswith("\nZeroDivisionError: division by zero")
    assert not any("less than anybody asked for" in text for _, text in lines)
    assert agree(result.run_directory)


def test_the_files_of_a_run_that_is_gone_on_with_agree_with_its_ledger(workshop):
    """Each drive has files of its own; what they share tells of both."""
    step = workshop.step("fails_first.py", run_max_try=1, error_threshold=0, node_count=2, process_count_per_node=1)
    with pytest.raises(LimitExceededError) as caught:
        step()
    logs = Path(caught.value.run_directory, "logs")
    assert agree(logs.parent)
    assert "status  failed: " in (logs / "job_progress_overview.txt").read_text()
    result = workshop.step("fails_first.py", run_max_try=3, node_count=2, process_count_per_node=1)()
    assert Path(result.run_directory) == logs.parent
    assert agree(logs.parent)
    overview = (logs / "job_progress_overview.txt").read_text()
    assert "status  succeeded\n" in overview
    assert ", execution 2\n" in overview
    for prefix in ("", "r2."):
        with (logs / f"{prefix}progress.csv").open(newline="") as file:
            assert int(list(csv.DictReader(file))[-1]["planned"]) == 10
        nodes = [node for node in ("node-0", "node-1") if (logs / f"{prefix}{node}.processes.jsonl").exists()]
        assert nodes  # the drive may be over before the other one has opened
        for node in nodes:
            events = logs / f"{prefix}{node}.processes.jsonl"
            wait_until(lambda events=events: count(events, "started") == count(events, "ended") >= 1)
            wait_until((logs / f"{prefix}{node}.resources.csv").exists)  # a run does not wait long for its nodes' last lines
            with (logs / f"{prefix}{node}.resources.csv").open(newline="") as file:
                assert float(list(csv.DictReader(file))[-1]["memory_used"]) > 0
