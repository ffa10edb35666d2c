"""The recipe for one machine, followed word for word: a server, a worker, the deployments, one run that completes."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml

from .conftest import wait_until

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "deployments" / "local" / "prefect.yaml"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prefect:
    """The prefect command in a home of its own, against a server of its own."""

    def __init__(self, folder):
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.log = folder / "log.txt"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.environment = kept | {
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PYTHONPATH": str(ROOT),
        }
        self.started = []

    def start(self, *command):
        with self.log.open("ab") as log:
            self.started.append(subprocess.Popen(self.line(command), stdout=log, stderr=log, env=self.environment, cwd=ROOT))

    def run(self, *command):
        ended = subprocess.run(
            self.line(command), capture_output=True, text=True, env=self.environment, cwd=ROOT, timeout=120, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def line(self, command):
        return [sys.executable, "-m", "prefect", *command]

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def is_up(self):
        assert self.started[0].poll() is None, self.log.read_text()
        try:
            return self.ask("/health")
        except OSError:
            return False

    def stop(self):
        """Worker first, so that it can take its leave."""
        left = [child for process in self.started for child in psutil.Process(process.pid).children(recursive=True)]
        for process in reversed(self.started):
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        _, alive = psutil.wait_procs(left, 20)
        for process in alive:
            process.kill()
        assert not alive, alive


@pytest.fixture
def prefect(tmp_path):
    command = Prefect(tmp_path)
    command.start("server", "start", "--port", str(command.port))
    yield command
    command.stop()


def test_the_local_recipe(prefect, tmp_path):
    """What deployments/README.md says to do, with a folder of the test's for the results."""
    wait_until(prefect.is_up, 180)
    content = yaml.safe_load(RECIPE.read_text())
    prefect.start("worker", "start", "--pool", content["deployments"][0]["work_pool"]["name"], "--type", "process")
    wait_until(lambda: prefect.ask("/work_pools/filter", {}), 120)
    prefect.run("--no-prompt", "deploy", "--all", "--prefect-file", str(RECIPE.relative_to(ROOT)))

    deployed = {entry["entrypoint"]: entry for entry in prefect.ask("/deployments/filter", {})}
    assert set(deployed) == {deployment["entrypoint"] for deployment in content["deployments"]}
    for deployment in content["deployments"]:
        (schedule,) = deployed[deployment["entrypoint"]]["schedules"]
        assert schedule["active"] == deployment["schedules"][0]["active"]
        (step,) = deployed[deployment["entrypoint"]]["pull_steps"]
        assert step == {"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}
    kinds = {key for entry in deployed.values() for key in entry["schedules"][0]["schedule"]}
    assert {"cron", "interval"} <= kinds

    prefect.run("deployment", "run", "digits/local", "--param", f"folder={json.dumps(str(tmp_path / 'digits'))}")
    (asked,) = [entry for entry in prefect.ask("/flow_runs/filter", {}) if entry["auto_scheduled"] is False]

    def final():
        state = prefect.ask(f"/flow_runs/{asked['id']}")["state"]
        return state if state["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} else None

    state = wait_until(final, 180)
    assert state["type"] == "COMPLETED", (state, prefect.log.read_text())
    rows = (tmp_path / "digits" / "scores" / "parallel_run_step.txt").read_text().splitlines()
    assert len(rows) == 1797
