"""Makes the pictures of the documentation from real runs: ``python docs/make_pictures.py``.

Starts a Prefect server in a temporary folder, deploys the ready-made flows, runs flows/digits.py, and writes docs/pictures.
Needs Chromium and the extra ``dev``.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURES = Path(__file__).with_name("pictures")
PATIENCE = 180  #: s for a server, a worker or a run


def main() -> None:
    """Write all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, prefect(Path(name)) as (api, environment):
        folder = Path(name, "digits")
        run([sys.executable, "flows/digits.py", str(folder)], environment)
        (run_directory,) = (path.parent for path in folder.rglob("report.html"))
        terminal(["prefect-parallel-run", "show", str(run_directory)], environment, "terminal.svg")
        with sync_playwright() as playwright:
            program = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport={"width": 1100, "height": 760}, color_scheme=scheme)
                page.goto((run_directory / "report.html").as_uri())
                save(page, f"report-{scheme}.png")
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            home = api.removesuffix("/api")
            page.route("**/*", lambda route: route.continue_() if route.request.url.startswith(home) else route.abort())
            deployment = ask(api, "/deployments/name/parallel-run/form", None)["id"]
            page.goto(f"{home}/v2/deployments/deployment/{deployment}/run")
            page.get_by_text("Speculative execution (Optional)").wait_for(timeout=PATIENCE * 1000)
            save(page, "form.png")
            (flow_run,) = ask(api, "/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}})
            page.goto(f"{home}/v2/runs/flow-run/{flow_run['id']}")
            page.get_by_role("tab", name="Artifacts").click(timeout=PATIENCE * 1000)
            page.get_by_text("digits-progress").first.scroll_into_view_if_needed(timeout=PATIENCE * 1000)
            page.wait_for_timeout(5_000)  # for the drawing of the graph
            save(page, "flow-run.png")
            browser.close()


@contextmanager
def prefect(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Run a server that knows the ready-made flows; yield the address of the API and the environment of its users."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_UI_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with (folder / "prefect.log").open("wb") as log:
        server = subprocess.Popen(["prefect", "server", "start", "--port", str(port)], env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + PATIENCE
            while not is_healthy(api):
                if time.monotonic() > deadline:
                    raise TimeoutError((folder / "prefect.log").read_text())
                time.sleep(0.5)
            run(["prefect", "work-pool", "create", "--type", "process", "process"], environment)
            run(["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml"], environment)
            yield api, environment
        finally:
            server.terminate()
            server.wait(60)


def is_healthy(api: str) -> bool:
    """Return whether the server answers."""
    try:
        return httpx.get(f"{api}/health").is_success
    except httpx.TransportError:
        return False


def ask(api: str, path: str, body: dict[str, Any] | None) -> Any:
    """Return the server's answer; *body* is posted."""
    answer = httpx.get(api + path) if body is None else httpx.post(api + path, json=body)
    return answer.raise_for_status().json()


def run(command: list[str], environment: dict[str, str]) -> str:
    """Run a command in the repository and return its output."""
    return subprocess.run(command, env=environment, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


def terminal(command: list[str], environment: dict[str, str], name: str) -> None:
    """Write a picture of a command and its output, as a terminal of 100 columns shows it."""
    output = run(command, {**environment, "FORCE_COLOR": "1", "COLUMNS": "100"})
    shown = re.sub(re.escape(str(tempfile.gettempdir())) + r"/\w+/", "", f"$ {command[0]} {command[1]} RUN_DIR\n{output}")
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(Text.from_ansi(shown))
    console.save_svg(str(PICTURES / name), title="prefect-parallel-run")


def save(page: Page, name: str) -> None:
    """Write what the page shows, with few colors: a picture of text needs no more."""
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(96).save(PICTURES / name, optimize=True)


if __name__ == "__main__":
    main()
