"""Environments built for real: by uv, by venv and pip, and what becomes of them when something goes wrong meanwhile."""

import fcntl
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from prefect_parallel_run.environments import EnvironmentPlan
from prefect_parallel_run.errors import EnvironmentSetupError
from prefect_parallel_run.node import environments
from prefect_parallel_run.node.environments import base_of, built_interpreter, version_of
from prefect_parallel_run.node.reaper import _other_processes

from ..processes import command_line
from .conftest import wait_until

VERSIONS = ["3.9", "3.10", "3.11", "3.12", "3.13"]
SIX = EnvironmentPlan(requirements=("six",))
UV_COMMAND = environments.uv_command
ASKS = """\
import sys, threading
from pathlib import Path
from prefect_parallel_run.environments import EnvironmentPlan
from prefect_parallel_run.node.environments import built_interpreter
print(built_interpreter(EnvironmentPlan(requirements=("six",)), Path(sys.argv[1]), threading.Event()))
"""


def is_there(version):
    """True when this machine has the version."""
    try:
        base_of(version, "test", has_uv=False)
    except EnvironmentSetupError:
        return False
    return True


def build(plan, cache, stop=None):
    return built_interpreter(plan, cache, stop or threading.Event())


def imports(interpreter, *names):
    """Where *interpreter* finds these modules; PYTHONPATH would be the test's own."""
    code = f"import {', '.join(names)}; print({names[0]}.__file__)"
    return subprocess.run(
        [interpreter, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=300
    ).stdout.strip()


def running_installers(cache):
    """Ids of processes that were started to install something into *cache*, and that still live."""
    found = []
    for process in _other_processes():
        try:
            variables = Path(f"/proc/{process}/environ").read_bytes()
        except OSError:
            continue
        if f"{environments._MARKER}=".encode() in variables and f"TMPDIR={cache.parent}/".encode() in variables:
            found.append(process)
    return found


def open_locks():
    """How often this process has a lock open: once per thread that builds, or waits."""
    return sum(os.path.realpath(f"/proc/self/fd/{number}").endswith(".lock") for number in os.listdir("/proc/self/fd"))


def left_in(cache):
    """Names of the environments in a cache, whole or not."""
    return [path.name for path in (cache / "environments").iterdir() if path.is_dir()]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the test's own, without uv; afterwards no installer lives and no temporary file is left."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(environments.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(environments, "uv_command", lambda: None)
    yield tmp_path / "cache"
    wait_until(lambda: not running_installers(tmp_path / "cache"))
    wait_until(lambda: not list((tmp_path / "temporary").iterdir()))


class Gate:
    """A uv on PATH that notes each call, and can be held up before it does the real thing."""

    def __init__(self, folder: Path, uv: Path) -> None:
        self.calls, self._held = folder / "calls.txt", folder / "held"
        self.bin = folder / "bin"
        self.bin.mkdir()
        wrapper = self.bin / "uv"
        wrapper.write_text(
            f'#!/bin/sh\necho "$$ $*" >> {self.calls}\nwhile grep -qs "$1" {self._held}; do sleep 0.05; done\nexec {uv} "$@"\n'
        )
        wrapper.chmod(0o755)

    def hold(self, command):
        self._held.write_text(command)

    def open(self):
        self._held.unlink()

    def called(self):
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def gate(cache, tmp_path, uv_program, monkeypatch):
    """uv for the environments of a test, held up where it wants."""
    (tmp_path / "gate").mkdir()
    made = Gate(tmp_path / "gate", uv_program)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))  # of processes that the test starts
    monkeypatch.setattr(environments, "uv_command", UV_COMMAND)
    return made


@pytest.fixture
def start(cache):
    """Starts processes that ask for the environment with six; none outlives the test."""
    started = []

    def start_one():
        command = [sys.executable, "-c", ASKS, str(cache)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def test_venv_and_pip_without_uv(cache, monkeypatch):
    """The requirements are installed, independent of the environment; the second time nothing is built."""
    with monkeypatch.context() as misled:
        for name in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "VIRTUAL_ENV"):
            misled.setenv(name, "/none")
        interpreter = build(SIX, cache)
    assert imports(interpreter, "six").startswith(str(cache))
    (name,) = left_in(cache)
    complete = cache / "environments" / name / "prefect_parallel_run.complete"
    os.utime(complete, (1, 1))
    log = (cache / "environments" / f"{name}.log").read_text()
    assert "Successfully installed six" in log
    assert build(SIX, cache) == interpreter
    assert complete.stat().st_mtime > 1, "it can be told when it was last used"
    assert (cache / "environments" / f"{name}.log").read_text() == log


@pytest.mark.parametrize("version", VERSIONS)
def test_uv_builds_on_every_version_and_a_child_runs_in_it(gate, cache, bench, files, version, monkeypatch):
    """Nothing of ours is installed there."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if not is_there(version):
        pytest.skip(f"there is no Python {version} on this machine")
    interpreter = build(EnvironmentPlan(requirements=("six", "iniconfig"), python=version), cache)
    assert version_of(interpreter)[:2] == tuple(map(int, version.split(".")))
    assert imports(interpreter, "six", "iniconfig").startswith(str(cache))
    script = bench.folder / "tells.py"
    script.write_text(
        "import sys, six\nfrom prefect_parallel_run import EntryScript, NoRetry, RetryLater\n"
        "def run(mini_batch):\n"
        "    return [f'{sys.version_info[1]} {six.__file__} {EntryScript().output_dir}'] * len(mini_batch)\n"
    )
    slot = bench.slot(str(script), interpreter=interpreter)
    rows = bench.rows(bench.attempt(slot, bench.works(files)))
    assert len(rows) == 100
    minor, six, output = rows[0].split()
    assert minor == version.split(".")[1]
    assert six.startswith(str(cache))
    assert output == str(bench.folder / "out")


@pytest.mark.parametrize("uses", ["pip", "uv"])
def test_an_error_contains_the_installers_output(cache, request, uses):
    """No partial environment is left, and the next attempt is possible."""
    if uses == "uv":
        request.getfixturevalue("gate")
    plan = EnvironmentPlan(requirements=("no-such-package-of-ours",), name="scoring")
    for _ in range(2 if uses == "uv" else 1):
        with pytest.raises(EnvironmentSetupError) as caught:
            build(plan, cache)
        assert str(caught.value).startswith("environment scoring: ")
        first, _, words = caught.value.reason.partition("\n")
        assert "pip install" in first
        assert first.startswith("uv ") == (uses == "uv")
        assert "no-such-package-of-ours" in words
        assert not left_in(cache)


def test_credentials_are_not_in_an_error(gate, cache, monkeypatch):
    """Neither from the requirement nor from what the installer says of it."""
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with socket.socket() as nobody:  # bound, and not listening: connections are refused
        nobody.bind(("127.0.0.1", 0))
        url = f"http://me:canary-3@127.0.0.1:{nobody.getsockname()[1]}/six-1.0.tar.gz"
        with pytest.raises(EnvironmentSetupError, match=r"six @ http://\*\*\*@127") as caught:
            build(EnvironmentPlan(requirements=(f"six @ {url}",)), cache)
    assert "canary-3" not in str(caught.value)


def test_an_environment_is_built_once(gate, cache, start):
    """For threads of this process and two other processes."""
    gate.hold("venv")
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(build, SIX, cache) for _ in range(3)]
        processes = [start(), start()]
        wait_until(gate.called)
        gate.open()
        found = {ask.result(timeout=300) for ask in asked} | {
            process.communicate(timeout=300)[0].strip() for process in processes
        }
    assert len(found) == 1
    assert [call.split()[1] for call in gate.called()] == ["venv", "pip"]


def test_waiting_processes_share_a_failed_build(gate, cache):
    """A node with many workers reports it as soon as one of them fails."""
    gate.hold("pip")
    plan = EnvironmentPlan(requirements=("no-such-package-of-ours",))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(build, plan, cache)
        wait_until(lambda: len(gate.called()) == 2)
        second = pool.submit(build, plan, cache)
        wait_until(lambda: open_locks() == 2)
        gate.open()
        errors = {str(ask.exception(timeout=300)) for ask in (first, second)}
    assert len(errors) == 1
    assert len(gate.called()) == 2


def test_a_killed_build_is_not_complete(gate, cache, start):
    """Its installer is killed too, and the next process builds again."""
    gate.hold("pip")
    builder = start()
    wait_until(lambda: len(gate.called()) == 2)
    builder.kill()
    wait_until(lambda: not running_installers(cache))
    assert left_in(cache), "half of it is there"
    gate.open()
    assert imports(build(SIX, cache), "six").startswith(str(cache))
    assert [call.split()[1] for call in gate.called()] == ["venv", "pip"] * 2


def test_a_surviving_installer_keeps_the_lock(gate, cache, start, tmp_path):
    """If the reaper is killed too; the environment does not count as built."""
    gate.hold("pip")
    builder = start()
    wait_until(lambda: len(gate.called()) == 2)
    psutil.Process(builder.pid).suspend()  # else it would start another reaper
    for process in psutil.Process(builder.pid).children():
        if "reaper" in command_line(process):
            process.kill()
    builder.kill()
    builder.wait()
    (lock,) = (cache / "environments").glob("*.lock")
    with lock.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(build, SIX, cache, stop)
        stop.set()
        assert "stopped while waiting" in str(waiting.exception(timeout=300))
    gate.open()
    build(SIX, cache)
    assert [call.split()[1] for call in gate.called()] == ["venv", "pip"] * 2
    for left in (tmp_path / "temporary").glob("parallel_run_build_*"):
        shutil.rmtree(left)  # the reaper's work


def test_stop_kills_pip(cache):
    """While it waits for an index that never answers."""
    stop, accepted = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as index, ThreadPoolExecutor(2) as pool:

        def accept():
            connection, _ = index.accept()
            accepted.set()
            return connection

        connection = pool.submit(accept)
        plan = EnvironmentPlan(requirements=(f"--index-url http://127.0.0.1:{index.getsockname()[1]}/simple", "six"))
        asked = pool.submit(build, plan, cache, stop)
        assert accepted.wait(300)
        assert running_installers(cache)
        stop.set()
        error = asked.exception(timeout=300)
        connection.result().close()
    assert isinstance(error, EnvironmentSetupError)
    assert "the build was stopped" in str(error)
    assert not running_installers(cache)
    assert not left_in(cache)


def test_a_lost_base_interpreter_causes_a_new_build(gate, cache):
    """As after an upgrade of the base interpreter."""
    interpreter = build(SIX, cache)
    Path(interpreter).unlink()
    Path(interpreter).symlink_to("/none/python")
    assert build(SIX, cache) == interpreter
    assert imports(interpreter, "six")
    assert len(gate.called()) == 4


def test_a_read_only_cache_is_an_error(cache):
    """The error contains its path."""
    (cache / "file").write_text("")
    with pytest.raises(EnvironmentSetupError, match=r"cannot write it to the cache .*cache/file"):
        build(SIX, cache / "file")
    (cache / "environments").write_text("")
    with pytest.raises(EnvironmentSetupError, match=r"cannot write it to the cache .*cache: "):
        build(SIX, cache)


def test_a_missing_python_lists_the_searched_locations(cache, tmp_path, monkeypatch):
    """Versions and paths; also one that is too old, and a program that is not Python."""
    with pytest.raises(EnvironmentSetupError, match=r"no Python 3\.98; looked for python3\.98 on PATH, .*, and for uv"):
        build(EnvironmentPlan(python="3.98"), cache)
    with pytest.raises(EnvironmentSetupError, match="the interpreter /none/python does not exist"):
        build(EnvironmentPlan(python="/none/python"), cache)
    for said, words in (("[3, 8, 1]", "is Python 3.8.1; expected"), ("pyenv: not found", "does not print its version")):
        program = tmp_path / "python3.9"
        program.write_text(f"#!/bin/sh\necho '{said}'\n")
        program.chmod(0o755)
        with pytest.raises(EnvironmentSetupError, match=words):
            build(EnvironmentPlan(python=str(program)), cache)


@pytest.fixture
def conda(gate, tmp_path):
    """There is no conda where these tests run: this program takes its command line, and makes a real environment at -p."""
    program = gate.bin / "conda"
    program.write_text(
        f'#!/bin/sh\necho "$*" > {tmp_path}/said.txt\ncat "$6" >> {tmp_path}/said.txt\n'
        f'grep -q python "$6" || exec mkdir "$4"\nexec {sys.executable} -m venv --without-pip "$4"\n'
    )
    program.chmod(0o755)
    return tmp_path / "said.txt"


def test_conda_creates_the_environment_before_pip(conda, cache):
    """In the cache's folder, from the content of the file."""
    interpreter = build(EnvironmentPlan(conda="dependencies: [python=3.11]\n", requirements=("six",)), cache)
    assert imports(interpreter, "six").startswith(str(cache))
    command, *content = conda.read_text().splitlines()
    assert command.startswith(f"env create -p {Path(interpreter).parent.parent} -f ")
    assert content == ["dependencies: [python=3.11]"]


def test_a_conda_environment_needs_python(conda, cache):
    """The child runs on it."""
    with pytest.raises(EnvironmentSetupError, match=r"no working Python was installed; expected Python 3\.9 or later"):
        build(EnvironmentPlan(conda="dependencies: [gdal]\n"), cache)
    assert not left_in(cache)


def test_a_conda_file_requires_conda(cache, tmp_path, monkeypatch):
    """The error names the missing program."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CONDA_EXE", "MAMBA_EXE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(EnvironmentSetupError, match="conda_file requires one of mamba, micromamba, conda on PATH"):
        build(EnvironmentPlan(conda="dependencies: [python]\n"), cache)


def test_a_hanging_installer_is_stopped(tmp_path, monkeypatch):
    """With its output; the next attempt is possible."""
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho waiting for a lock\nexec sleep 1000\n")
    uv.chmod(0o755)
    monkeypatch.setattr(environments, "uv_command", lambda: [str(uv)])
    cache = tmp_path / "cache"
    cache.mkdir()

    def has_printed():
        return any(log.read_text() for log in (cache / "environments").glob("*.log"))

    deadline = property(lambda _: 0.0 if has_printed() else math.inf, lambda *_: None)
    monkeypatch.setattr(environments.Installer, "_deadline", deadline, raising=False)
    with pytest.raises(EnvironmentSetupError, match=r"(?s)uv venv .* took over .* min:\nwaiting for a lock"):
        build(SIX, cache)
    assert running_installers(cache) == []
