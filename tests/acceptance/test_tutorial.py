"""The tutorial, done word for word by a new user: an empty Prefect home, no variable set, the server that it starts."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ..processes import interrupt
from .conftest import wait_until

TEXT = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
SECTIONS = dict(re.findall(r"^##+ ([^\n]+)\n(.*?)(?=^##+ |\Z)", TEXT, re.DOTALL | re.MULTILINE))


def blocks(section, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[section], re.DOTALL | re.MULTILINE)


class User:
    """Types what the tutorial says, in a terminal of a new account."""

    def __init__(self, home):
        self.folder = home
        kept = {name: os.environ[name] for name in ("LANG", "USER") if name in os.environ}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**kept, "HOME": str(home), "PATH": path, "PPR_TEST_SESSION": os.environ["PPR_TEST_SESSION"]}

    def start(self, command, output=subprocess.PIPE):
        return subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def types(self, commands, exit_code=0):
        """Run commands and return what they print; a ``cd`` stays in effect."""
        with self.start(f"bash -ec {shell_quoted(commands)}") as process:
            output = process.communicate(timeout=300)[0]
        assert process.returncode == exit_code, output
        for folder in re.findall(r"^cd (\S+)$", commands, re.MULTILINE):
            self.folder = self.folder / folder
        return output

    def rows(self):
        return (self.folder / "out" / "parallel_run_step.txt").read_text().splitlines()


def shell_quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"


@pytest.fixture
def user(tmp_path):
    """A user whose server runs; as in the tutorial, at Prefect's own port."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 4200)) == 0:
            pytest.skip("port 4200 is in use, and the tutorial's server needs it")
    user = User(tmp_path)
    (server_command,), (set_command,) = (
        blocks("Start a Prefect server", "bash")[:1],
        blocks("Start a Prefect server", "bash")[1:],
    )
    server = user.start(server_command.strip())
    try:
        wait_until(lambda: page_appears() or server.poll() is not None, 300, pause=0.5)
        assert server.poll() is None, server.stdout.read()
        user.types(set_command)
        yield user
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=300)


def page_appears():
    try:
        return httpx.get("http://127.0.0.1:4200").is_success
    except httpx.TransportError:
        return False


def expected(number):
    return f"{number}.txt {float(number)} mm"


ROWS = [expected(number) for number in sorted(range(1, 301), key=lambda number: f"{number}.txt")]


def test_the_tutorial_word_for_word(user):
    """Every command, file and change, in order; what it prints is what the tutorial shows, and the rows are right."""
    user.types(blocks("The first step", "bash")[0])
    script, flow = blocks("The first step", "python")
    (user.folder / "scripts" / "measure.py").write_text(script)
    (user.folder / "flow.py").write_text(flow)
    (run,) = blocks("The first step", "bash")[1:]
    assert "measure: 300 of 300 items succeeded, 0 failed, 300 rows" in user.types(run)
    assert user.rows() == ROWS
    assert "reused from an earlier run" in user.types(run)

    damage, show_failures = blocks("A bad file", "bash")
    assert "LimitExceededError: error_threshold exceeded: 10 failed items, 0 allowed" in user.types(damage, exit_code=1)
    assert "failed permanently: 10 items" in user.types(show_failures)

    (changed,) = blocks("Keep the good files", "text")[:1]
    lines = re.sub(r"^ +error_threshold=.*\n", lambda _: changed, flow, flags=re.MULTILINE)
    (user.folder / "flow.py").write_text(lines)
    assert "measure: 299 of 300 items succeeded, 1 failed, 299 rows" in user.types(run)
    assert user.rows() == [row for row in ROWS if row != expected(217)]

    repair, resume = blocks("Fix the file", "bash")
    assert "InputChangedError" in user.types(repair, exit_code=1)
    assert "measure: 300 of 300 items succeeded, 0 failed, 300 rows" in user.types(resume)
    assert user.rows() == ROWS

    (slow,) = blocks("Interrupt and resume", "python")
    slower = re.sub(r"^def run.*?\n\n", lambda _: f"{slow}\n", script, flags=re.DOTALL | re.MULTILINE)
    may_end, output = user.folder / "may_end", user.folder / "output.txt"
    held = f'    while any("217.txt" in path for path in mini_batch) and not Path("{may_end}").exists(): time.sleep(0.01)\n'
    slower = slower.replace("    time.sleep(1)\n", f"    time.sleep(1)\n{held}")  # however late the test interrupts it
    (user.folder / "scripts" / "measure.py").write_text(f"import time\n{slower}")
    with output.open("w") as file:
        interrupted = user.start(run.strip(), file)
    wait_until(lambda: re.search(r"[1-9]\d* of 30 mini-batches", output.read_text()) or interrupted.poll() is not None)
    assert interrupted.poll() is None, output.read_text()
    interrupt(lambda: interrupted.send_signal(signal.SIGINT), lambda: interrupted.poll() is not None, output.read_text)
    assert "interrupt" in output.read_text()
    may_end.touch()
    assert "cancelled" in user.types(blocks("Interrupt and resume", "bash")[0])
    assert re.search(r"resuming: [1-9]\d* of 30 mini-batches already finished", user.types(run))
    assert user.rows() == ROWS

    (user.folder / "measure.yml").write_text(blocks("Without a flow", "yaml")[0])
    user.types(blocks("Without a flow", "bash")[0])
    assert (user.folder / "out2" / "parallel_run_step.txt").read_text().splitlines() == ROWS
