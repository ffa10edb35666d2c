"""A script that calls a service: the guide's example against a local one that has too many requests at first."""

import re
import sqlite3
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from .test_readme import ROOT, run


class Service(BaseHTTPRequestHandler):
    """Answers with the request in capitals; refuses the first request for each text in ``busy``."""

    busy: ClassVar[set[str]] = {"file 3"}
    lock = threading.Lock()

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with self.lock:
            is_busy = text in self.busy
            self.busy.discard(text)
        self.send_response(429 if is_busy else 200)
        self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(text.upper().encode())

    def log_message(self, *_):
        """Write nothing."""


def test_the_example_of_the_guide(tmp_path):
    """Every file has its answer, and only the refused request was repeated."""
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
        assert attempts.fetchall() == [(3, "raised", "RetryLater", "retry in 1 s")]
