"""deployments/prefect.yaml, followed word for word: what is deployed, started with parameters, and run by a schedule."""

import json
import subprocess
import sys
import urllib.error
from datetime import datetime, timedelta, timezone

import pytest
import yaml

from prefect_parallel_run import ParallelRunResult

from .conftest import wait_until
from .prefect_at_work import RECIPE, ROOT

READ_RESULT = """
import sys
from prefect import get_client

with get_client(sync_client=True) as client:
    print(client.read_flow_run(sys.argv[1]).state.result().model_dump_json())
"""


def test_what_is_deployed(at_work):
    """Every deployment of the file, with its schedules, working in the clone."""
    content = yaml.safe_load(RECIPE.read_text())
    deployed = {(entry["entrypoint"], entry["name"]): entry for entry in at_work.deployments.values()}
    assert set(deployed) == {(deployment["entrypoint"], deployment["name"]) for deployment in content["deployments"]}
    kinds = set()
    for deployment in content["deployments"]:
        entry = deployed[deployment["entrypoint"], deployment["name"]]
        wanted = [(one["slug"], one["active"]) for one in deployment.get("schedules", [])]
        assert [(one["slug"], one["active"]) for one in entry["schedules"]] == wanted
        kinds |= {key for one in entry["schedules"] for key in one["schedule"]}
        (step,) = entry["pull_steps"]
        assert step == {"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}
    assert {"cron", "interval"} <= kinds


def test_an_example_flow(at_work, tmp_path):
    """Started as the README says, with a folder of the test's for the results."""
    at_work.run("deployment", "run", "digits/local", "--param", f"folder={json.dumps(str(tmp_path / 'digits'))}")
    deployment = at_work.deployments["digits/local"]["id"]
    wanted = {"flow_runs": {"deployment_id": {"any_": [deployment]}}}
    (asked,) = [entry for entry in at_work.ask("/flow_runs/filter", wanted) if entry["auto_scheduled"] is False]
    state = at_work.final(asked["id"])
    assert state["type"] == "COMPLETED", (state, at_work.log.read_text())
    rows = (tmp_path / "digits" / "scores" / "parallel_run_step.txt").read_text().splitlines()
    assert len(rows) == 1797


def test_the_ready_made_flow_with_parameters_as_the_form_sends_them(at_work, files, scripts, tmp_path):
    """The server accepts them, the flow gets models, the result can be read by whoever started it; a wrong value is refused."""
    deployment = at_work.deployments["parallel-run/form"]["id"]
    parameters = {
        "name": "echo",
        "inputs": [{"files": [str(files)], "allow_empty": False}],
        "output": str(tmp_path / "out"),
        "arguments": ["--where", "{output}"],
        "allow_reuse": True,
        "config": {
            "entry_script": "echo.py",
            "source_directory": str(scripts),
            "error_threshold": 0,
            "output_action": "append_row",
            "mini_batch_size": "25",
            "compute_target": "local",
            "node_count": 1,
            "process_count_per_node": 1,
            "run_invocation_timeout": 60,
            "environment_variables": {"__prefect_kind": "json"},  # what an editor that was left empty sends
        },
    }
    wrong = {**parameters, "config": {**parameters["config"], "mini_batch_size": "25 files"}}
    with pytest.raises(urllib.error.HTTPError) as refused:
        at_work.ask(f"/deployments/{deployment}/create_flow_run", {"parameters": wrong})
    assert refused.value.code == 409
    assert "config" in refused.value.read().decode()

    run = at_work.ask(f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]
    state = at_work.final(run)
    assert state["type"] == "COMPLETED", (state, at_work.log.read_text())
    said = subprocess.run(
        [sys.executable, "-c", READ_RESULT, run],
        capture_output=True,
        text=True,
        check=True,
        env=at_work.environment,
        timeout=120,
    )
    result = ParallelRunResult.model_validate_json(said.stdout)
    assert (result.items_succeeded, result.mini_batches_total, result.name) == (100, 4, "echo")
    assert at_work.ask(f"/flow_runs/{run}")["name"].startswith("echo: 20")


def test_an_interval_schedule_fires(at_work, tmp_path):
    """On the deployment of one's own script; what the schedule starts completes."""
    deployment = at_work.deployments["parallel-run/count-lines"]["id"]
    soon = datetime.now(timezone.utc) + timedelta(seconds=10)  # a scheduler that is late for it has the next one a minute later
    schedule = {"interval": 60, "anchor_date": soon.isoformat(), "timezone": "UTC"}
    asked = {"schedule": schedule, "active": True, "parameters": {"output": str(tmp_path / "out")}}
    (made,) = at_work.ask(f"/deployments/{deployment}/schedules", [asked])
    wanted = {"flow_runs": {"deployment_id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
    (first, *_) = wait_until(lambda: at_work.ask("/flow_runs/filter", wanted), 120, pause=0.5)
    state = at_work.final(first["id"])
    at_work.ask(f"/deployments/{deployment}/schedules/{made['id']}", method="DELETE")
    assert first["auto_scheduled"]
    assert state["type"] == "COMPLETED", (state, at_work.log.read_text())
    lines = (tmp_path / "out" / "lines.csv").read_text().splitlines()
    assert lines[0] == "file,lines,bytes"
    assert any(line.startswith("flows.py,") for line in lines)
