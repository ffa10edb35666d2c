"""Inputs on a web server, which says less of them than a store does."""

import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from prefect_parallel_run import InputError, LimitExceededError, TabularDataset

pytestmark = pytest.mark.usefixtures("shared_cluster")


class Web:
    """Pages, when they were changed, and what the server leaves out of its answers."""

    def __init__(self) -> None:
        self.pages = {"/a.csv": b"a\n1\n2\n", "/b.csv": b"a\n3\n"}
        self.changed = "Mon, 01 Jan 2024 00:00:00 GMT"
        self.left_out: set[str] = set()
        self.url = ""


@pytest.fixture
def web():
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            data = web.pages.get(self.path)
            self.send_response(404 if data is None else 200)
            headers = {"Content-Length": str(len(data or b"")), "Last-Modified": web.changed}
            for name, value in headers.items():
                if name not in web.left_out:
                    self.send_header(name, value)
            self.end_headers()
            if self.command == "GET" and data is not None:
                self.wfile.write(data)

        do_GET = do_HEAD = answer  # noqa: N815  http.server's names

        def log_message(self, *_: object) -> None:
            pass

    with closing(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        server.close = server.server_close
        threading.Thread(target=server.serve_forever, daemon=True).start()
        web.url = f"http://127.0.0.1:{server.server_port}"
        yield web
        server.shutdown()


def reading(workshop, web, **fields):
    fields = {"inputs": [f"{web.url}/a.csv", f"{web.url}/b.csv"], "error_threshold": 0, **fields}
    return workshop.step("reads.py", "--log", str(workshop.log), **fields)


def test_pages_are_files_and_a_change_is_seen_by_its_time(workshop, web):
    """Also where the size stays the same."""
    result = reading(workshop, web)()
    assert Path(result.output_file).read_text().split() == ["a.csv", "a", "1", "2", "b.csv", "a", "3"]
    assert reading(workshop, web)().reused
    web.pages["/a.csv"] = b"a\n8\n9\n"
    web.changed = "Tue, 02 Jan 2024 00:00:00 GMT"
    again = reading(workshop, web)()
    assert not again.reused
    assert Path(again.output_file).read_text().split()[2:4] == ["8", "9"]


@pytest.mark.parametrize("left_out", ["Content-Length", "Last-Modified"])
def test_a_server_that_does_not_say_enough_is_refused(workshop, web, left_out):
    """No row is lost, and no change missed, in silence."""
    web.left_out = {left_out}
    with pytest.raises(InputError, match=r"a.csv: cannot be checked for changes"):
        reading(workshop, web)()


def test_a_server_that_gives_no_parts_of_a_page_is_told(workshop, web):
    """Tables are read by ranges."""
    inputs = TabularDataset.from_delimited_files([f"{web.url}/a.csv"])
    with pytest.raises(LimitExceededError, match=r"cannot read .*a.csv: OSError: got 6 bytes instead of 4"):
        workshop.step("echo.py", inputs=inputs, error_threshold=0, run_max_try=1)()
