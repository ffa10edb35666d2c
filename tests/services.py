"""A local HTTP service that answers only when enough calls wait at the same time."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Service(ThreadingHTTPServer):
    """Answers a POST with the length of its body, once *together* calls are waiting."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, together):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.gate = threading.Barrier(together)
        self.lock = threading.Lock()
        self.calls = self.waiting = self.most = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        service = self.server
        with service.lock:
            service.calls += 1
            service.waiting += 1
            service.most = max(service.most, service.waiting)
        service.gate.wait(300)
        with service.lock:
            service.waiting -= 1
        answer = f"{len(body)} bytes".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        """Print nothing."""


@contextmanager
def service(together):
    """Serve in a thread."""
    with Service(together) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.gate.abort()
            server.shutdown()
            thread.join()
