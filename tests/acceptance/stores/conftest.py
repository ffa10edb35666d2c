"""A real S3 server of the session, behind a proxy that can be slow, refuse, and cut connections."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ...ports import free_port
from ..conftest import wait_until

BUCKET = "bucket"


class Proxy:
    """Passes requests on to the S3 server; *fault* may be set to a function of method and path that names what goes wrong."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.fault = lambda method, path: None
        self.seen: Counter[str] = Counter()  # method and path, without query
        self.log: Path | None = None
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.handle(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815  http.server's names

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        self.fault = lambda method, path: None
        self.seen.clear()
        self.log = None

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        what = f"{request.command} {path}"
        self.seen[what] += 1
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{what}\n")
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        fault = self.fault(request.command, path)
        if fault == "500":
            self.answer(request, 500, {"Content-Length": "0"}, b"")
        else:
            if fault == "slow":
                time.sleep(0.3)  # the fault itself, not a wait for something
            connection = http.client.HTTPConnection("127.0.0.1", self.target)
            connection.request(request.command, request.path, body, dict(request.headers))
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            self.answer(request, answer.status, dict(answer.getheaders()), data[: len(data) // 2] if fault == "cut" else data)
        if fault in ("cut", "500"):
            request.close_connection = True

    @staticmethod
    def answer(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes) -> None:
        with suppress(ConnectionError):  # whoever asked has been killed
            request.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("connection", "transfer-encoding"):
                    request.send_header(name, value)
            request.end_headers()
            request.wfile.write(data)


def first(times: int, part: str, fault: str):
    """A fault of the first *times* requests with *part* in method and path."""
    left = [times]

    def decide(method: str, path: str) -> str | None:
        if part in f"{method} {path}" and left[0] > 0:
            left[0] -= 1
            return fault
        return None

    return decide


@pytest.fixture(scope="session")
def s3_server():
    """moto's server in a process of its own, and the proxy in front of it."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        assert process.poll() is None, "the S3 server has ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(answers)
        yield Proxy(port)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """An empty bucket, and how it is reached: by the environment, as users do it."""
    s3_server.reset()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "canary-of-the-store",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_server.port}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    store = s3fs.S3FileSystem()
    if store.exists(BUCKET):
        store.rm(BUCKET, recursive=True)
    store.mkdir(BUCKET)
    store.proxy = s3_server
    yield store
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "mirror"])  # it would write on
    s3_server.reset()
    s3fs.S3FileSystem.clear_instance_cache()
