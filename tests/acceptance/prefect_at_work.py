"""A Prefect server, a process worker and the deployments of deployments/prefect.yaml, as deployments/README.md says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import yaml

from ..ports import free_port
from .conftest import wait_until

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "deployments" / "prefect.yaml"


class Prefect:
    """The prefect command in a home of its own, against a server of its own, whose UI knows where its API is."""

    def __init__(self, folder):
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.log = folder / "log.txt"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.environment = kept | {
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_API_URL": self.api,
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PYTHONPATH": str(ROOT),
        }
        self.started = []

    def start(self, *command):
        with self.log.open("ab") as log:
            self.started.append(subprocess.Popen(self.line(command), stdout=log, stderr=log, env=self.environment, cwd=ROOT))

    def run(self, *command):
        ended = subprocess.run(
            self.line(command), capture_output=True, text=True, env=self.environment, cwd=ROOT, timeout=600, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def line(self, command):
        return [sys.executable, "-m", "prefect", *command]

    def ask(self, path, body=None, method=None):
        """Return what the API answers; a body is posted. A busy server (503) is asked again, as Prefect's own client does."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api + path, data, {"Content-Type": "application/json"}, method=method)

        def answer():
            try:
                with urllib.request.urlopen(request, timeout=60) as said:
                    return [json.loads(said.read() or b"null")]
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                return None

        return wait_until(answer, 120, pause=0.5)[0]

    def final(self, flow_run):
        """Return the state that a flow run ends in."""

        def state():
            found = self.ask(f"/flow_runs/{flow_run}")["state"]
            return found if found["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} else None

        return wait_until(state, 600, pause=0.5)

    def completes(self, flow_run):
        """Wait for the end of a flow run, which must be a success."""
        state = self.final(flow_run)
        assert state["type"] == "COMPLETED", (state, self.log.read_text())

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
            process.wait(300)
        self.started = []
        _, alive = psutil.wait_procs(left, 300)
        for process in alive:
            process.kill()
        assert not alive, alive

    def deploy(self):
        """Start everything, in the README's order."""
        self.start("server", "start", "--port", str(self.port))
        wait_until(self.is_up, 180, pause=0.5)
        pool = yaml.safe_load(RECIPE.read_text())["deployments"][0]["work_pool"]["name"]
        self.start("worker", "start", "--pool", pool, "--type", "process")
        wait_until(lambda: self.ask("/work_pools/filter", {}), 120, pause=0.5)
        self.run("block", "register", "--module", "prefect_parallel_run")
        self.run("--no-prompt", "deploy", "--all", "--prefect-file", str(RECIPE.relative_to(ROOT)))
        self.deployments = {}
        for entry in self.ask("/deployments/filter", {}):
            flow = self.ask(f"/flows/{entry['flow_id']}")["name"]
            self.deployments[f"{flow}/{entry['name']}"] = entry
