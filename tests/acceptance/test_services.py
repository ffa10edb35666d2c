"""A script that calls a service: the guide's example against a local one that has too many requests at first."""

import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from prefect.settings import PREFECT_API_URL

from prefect_parallel_run.cli.app import main

from .conftest import wait_until
from .test_readme import ROOT, run

SOON = 10  #: s


class Service(BaseHTTPRequestHandler):
    """Answers with the request in capitals; refuses the first request for each text in ``busy``, with its Retry-After."""

    busy: ClassVar[dict[str, str]] = {}
    lock = threading.Lock()

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with self.lock:
            retry_after = self.busy.pop(text, None)
        self.send_response(429 if retry_after else 200)
        self.send_header("Retry-After", retry_after or "")
        self.end_headers()
        self.wfile.write(text.upper().encode())

    def log_message(self, *_):
        """Write nothing."""


def test_the_example_of_the_guide(tmp_path):
    """Every file has its answer, and only the refused requests were repeated, after seconds or at an HTTP date."""
    soon, past = (formatdate(time.time() + seconds, usegmt=True) for seconds in (SOON, -60))
    Service.busy.update({"file 3": "1", "file 5": past, "file 6": soon})
    script, flow = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guides" / "services.md").read_text(), re.DOTALL)
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "ask.py").write_text(script)
        (tmp_path / "flow.py").write_text(flow.replace(":8080", f":{server.server_port}"))
        (tmp_path / "data").mkdir()
        for number in range(8):
            (tmp_path / "data" / f"{number}.txt").write_text(f"file {number}")
        ended = run("flow.py", cwd=tmp_path)
        server.shutdown()
    assert ended.returncode == 0, ended.stderr
    rows = (tmp_path / "out" / "parallel_run_step.txt").read_text().splitlines()
    assert rows == [f"FILE {number}" for number in range(8)]
    (ledger,) = (tmp_path / "out" / "_parallel_run").glob("*/ledger.sqlite")
    with closing(sqlite3.connect(ledger)) as connection:
        attempts = connection.execute(
            "SELECT mini_batch, outcome, error_type, error FROM attempts WHERE outcome != 'succeeded'"
        )
        third, fifth, sixth = sorted(attempts.fetchall())
    assert third == (3, "raised", "RetryLater", "retry in 1 s")
    assert fifth == (5, "raised", "RetryLater", "retry in 0 s")
    assert sixth[:3] == (6, "raised", "RetryLater")
    assert 0 <= float(sixth[3].split()[2]) <= SOON


def test_the_pace_of_a_running_step_is_changed(tmp_path, capsys):
    """At one mini-batch per minute it would take an hour."""
    (tmp_path / "echo.py").write_text("def run(mini_batch):\n    return mini_batch\n")
    fields = {"entry_script": tmp_path / "echo.py", "error_threshold": 0, "output_action": "append_row", "mini_batch_size": 1}
    fields |= {"process_count_per_node": 1, "mini_batches_per_minute": 1}
    (tmp_path / "c.yml").write_text("parallel_run_config:\n" + "".join(f"  {key}: {value}\n" for key, value in fields.items()))
    (tmp_path / "data").mkdir()
    for number in range(60):
        (tmp_path / "data" / f"{number}.txt").touch()
    out = tmp_path / "out"
    command = ["run", tmp_path / "c.yml", "--input", tmp_path / "data", "--output", out]
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()}
    program = [sys.executable, "-m", "prefect_parallel_run.cli", *map(str, command)]
    with subprocess.Popen(program, cwd=ROOT, env=environment) as process:
        wait_until(lambda: list(out.glob("_parallel_run/*/parts/*.part")), 120)  # the first mini-batch has run
        assert main(["control", str(out), "limits", "--mini-batches-per-minute", "-1"]) == 0
        assert process.wait(timeout=120) == 0
    assert "mini_batches_per_minute no limit" in capsys.readouterr().out
    assert len((out / "parallel_run_step.txt").read_text().splitlines()) == 60
