"""What Prefect shows of a run, and what it is told."""

import json
import os
import re
import threading

import httpx
import pytest
from prefect import flow
from prefect.automations import Automation, DoNothing, EventTrigger, Posture
from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.events.filters import EventFilter, EventNameFilter, EventRelatedFilter, EventResourceFilter

from prefect_parallel_run import LimitExceededError

from .conftest import wait_until


@pytest.fixture(autouse=True)
def every_artifact_is_sent(monkeypatch):
    """However busy the server is."""
    monkeypatch.setattr("prefect_parallel_run.monitoring.artifacts._PATIENCE", 300.0)


def artifacts(flow_run_id):
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id])))


def run_in_flow(step, raises=None):
    found = []

    @flow(name="shown")
    def run():
        from prefect.runtime import flow_run

        found.append(flow_run.id)
        return step()

    if raises is None:
        run()
    else:
        with pytest.raises(raises):
            run()
    return {artifact.key: artifact for artifact in artifacts(found[0])}


def test_progress_failures_by_cause_and_a_summary(workshop):
    """One artifact each; the causes are grouped, with how often and where."""
    found = run_in_flow(workshop.step("poison.py", "--how", "raise", "--poison", "3", name="Score it", run_max_try=2))
    assert sorted(found) == ["score-it-failures", "score-it-progress", "score-it-report", "score-it-summary"]
    assert found["score-it-progress"].data == 100.0
    assert "10 of 10 mini-batches (100 %), 90 items, 1 mini-batch and 10 items failed" in found["score-it-progress"].description
    assert "ZeroDivisionError: division by zero" in found["score-it-failures"].data
    (row,) = json.loads(found["score-it-failures"].data)
    assert (row["failed attempts"], row["mini-batches"], row["items in them"], row["first mini-batch"]) == (2, 1, 10, 3)
    assert (row["first input"], row["nodes"]) == (f"{workshop.files}/f030.txt and 9 more", "node-0")
    assert "Dask dashboard" not in found["score-it-progress"].description  # it is gone
    assert "| mini-batches | 10 | 9 | 1 | 0 |" in found["score-it-summary"].data
    assert "| items | 100 | 90 | 10 | 0 |" in found["score-it-summary"].data


def test_an_aborted_run_shows_what_was_not_reached(workshop):
    """The summary is there although the step failed."""
    step = workshop.step("poison.py", "--how", "raise", "--poison", "0", run_max_try=1, error_threshold=0)
    found = run_in_flow(step, LimitExceededError)
    counts = re.search(r"\| items \| 100 \| (\d+) \| 10 \| (\d+) \|", found["test-summary"].data)
    assert int(counts[1]) + int(counts[2]) == 90


def test_what_is_shown_while_it_runs(workshop):
    """Failures by cause, and a link to the dashboard that opens; the cards stay, and the link goes with what it leads to."""
    gate = workshop.folder / "gate"
    given = ("--log", str(workshop.log), "--gate", "1", "--poison", "0", "--open", str(gate))
    step = workshop.step("gated.py", *given, name="Score it", run_max_try=1, dashboard=True)
    found = []

    @flow
    def run():
        from prefect.runtime import flow_run

        found.append(flow_run.id)
        return step()

    def shown():
        return {artifact.key: artifact for artifact in artifacts(found[0])} if found else {}

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: shown().keys() >= {"score-it-failures", "score-it-progress"})
        now = shown()
        (dashboard,) = re.findall(r"\[Dask dashboard\]\((\S+)\)", now["score-it-progress"].description)
        assert httpx.get(dashboard, follow_redirects=True, timeout=60).status_code == 200
    finally:
        gate.touch()
        thread.join()
    assert json.loads(now["score-it-failures"].data)[0]["first mini-batch"] == 0
    after = shown()
    assert after["score-it-failures"].id == now["score-it-failures"].id
    assert "Dask dashboard" not in after["score-it-progress"].description


def events_of(flow_run_id, **filters):
    """Events of ours that the server has, in their order, but for those that a run emits every minute."""
    related = EventRelatedFilter(id=[f"prefect.flow-run.{flow_run_id}"])
    wanted = EventFilter(related=related, event=EventNameFilter(prefix=["prefect-parallel-run."]))
    with get_client(sync_client=True) as client:
        answer = client._client.post("/events/filter", json={"filter": wanted.model_dump(mode="json"), "limit": 50})
    events = [event for event in answer.json()["events"] if not event["event"].endswith(".progressed")]
    return sorted(events, key=lambda event: event["occurred"])


def test_automations_can_react_to_a_limit(workshop):
    """The events are at the server, with figures; an automation that waits for one is triggered by it."""
    given = {"name": "Score it", "run_max_try": 1, "error_threshold": 0, "environment_variables": {"TOKEN": "s3cret"}}
    step = workshop.step("poison.py", "--how", "raise", "--poison", "0", **given)
    trigger = EventTrigger(
        expect={"prefect-parallel-run.step.limit-exceeded"},
        match={"prefect.resource.id": "prefect-parallel-run.step.score-it"},
        posture=Posture.Reactive,
        threshold=1,
    )
    automation = Automation(name="tell someone", trigger=trigger, actions=[DoNothing()]).create()
    found = []

    @flow
    def run():
        from prefect.runtime import flow_run

        found.append(flow_run.id)
        return step()

    with pytest.raises(LimitExceededError):
        run()
    prefix = "prefect-parallel-run.step."
    names = [f"{prefix}{name}" for name in ("started", "limit-exceeded", "failed")]
    wait_until(lambda: len(events_of(found[0])) >= len(names))
    events = events_of(found[0])
    assert [event["event"] for event in events] == names
    payload = events[1]["payload"]
    assert (payload["limit"], payload["allowed"], payload["actual"]) == ("error_threshold", 0, 10)
    assert {related["prefect.resource.role"] for related in events[1]["related"]} >= {"flow-run", "task-run", "flow"}
    assert "s3cret" not in json.dumps(events)
    about = EventFilter(
        event=EventNameFilter(name=["prefect.automation.triggered"]),
        resource=EventResourceFilter(id=[f"prefect.automation.{automation.id}"]),
    )
    with get_client(sync_client=True) as client:
        query = {"filter": about.model_dump(mode="json")}
        wait_until(lambda: client._client.post("/events/filter", json=query).json()["events"])


def test_the_log_tells_start_first_failure_and_end(workshop, caplog):
    """With the run directory, the traceback and the counts."""
    run_in_flow(workshop.step("poison.py", "--how", "raise", "--poison", "3", run_max_try=2, dashboard=True))
    words = [record.getMessage() for record in caplog.records if record.name == "prefect.task_runs"]
    text = "\n".join(words)
    assert re.search(r"test: 10 mini-batches, 100 items; run directory \S+; Dask dashboard http://127.0.0.1:", text)
    assert text.count("ZeroDivisionError: division by zero") == 2  # the line and its traceback, told once
    assert "poison.py" in text
    assert "test: 90 of 100 items succeeded, 10 failed, 90 rows" in text
    assert not [record for record in caplog.records if record.name.startswith("distributed")]


def test_the_number_of_calls_to_prefect_does_not_grow_with_mini_batches(workshop, monkeypatch):
    """Ten mini-batches or a hundred thousand: the same task runs and states; progress and log lines go by time."""
    import math
    import time

    from prefect.settings import PREFECT_LOGGING_TO_API_BATCH_INTERVAL

    calls = []
    for client in (PrefectHttpxSyncClient, PrefectHttpxAsyncClient):  # which repeat what a busy server refuses: one call
        monkeypatch.setattr(client, "send", counted(client.send, calls))
    counts = []
    for number in (10, 100_000):
        folder = workshop.folder / f"many{number}"
        folder.mkdir()
        for index in range(number):
            os.close(os.open(folder / f"{index}", os.O_CREAT | os.O_WRONLY))
        calls.clear()
        began = time.monotonic()
        run_in_flow(workshop.step("echo.py", inputs=folder, mini_batch_size=1))
        seconds = time.monotonic() - began
        artifacts = [call for call in calls if "artifacts" in call]
        logs = [call for call in calls if call.startswith("POST") and "logs" in call]
        counts.append(len(calls) - len(artifacts) - len(logs))
        assert len(artifacts) <= 6 + math.ceil(seconds / 2), artifacts  # made, last, summary, report, looked up here, asked for
        assert len(logs) <= 2 + math.ceil(seconds / PREFECT_LOGGING_TO_API_BATCH_INTERVAL.value()), logs
    assert abs(counts[0] - counts[1]) <= 2, counts


def counted(send, calls):
    """Return *send* of a client, noting method and path of every request first."""

    def noted(self, request, **options):
        calls.append(f"{request.method} {request.url.path}")
        return send(self, request, **options)

    return noted


def test_the_dashboard_listens_on_loopback_only(workshop):
    """So do scheduler and workers; seen while the run is under way."""
    import psutil

    from .conftest import ours

    step = workshop.step("slow.py", "--sleep", "0", "--doors", "4", mini_batch_size=2, dashboard=True)
    thread = threading.Thread(target=step)
    thread.start()
    try:
        wait_until(lambda: len(workshop.invocations()) >= 2)
        listening = [
            connection.laddr.ip
            for process in [psutil.Process(), *ours()]
            for connection in process.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
        ]
    finally:
        workshop.open_door(4)
        thread.join()
    assert len(listening) >= 3
    assert set(listening) == {"127.0.0.1"}
