"""What all tests share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared: a slow example is no failure.
settings.register_profile("here", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what it puts in the background; flows under test
    signal.signal(signal.SIGINT, signal.default_int_handler)  # would inherit that, and never hear of Ctrl-C

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture(autouse=True)
def ctrl_c():
    """What Ctrl-C does after a test is what it did before; importing dask_jobqueue, for one, changes that."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(autouse=True)
def environment():
    """The environment after a test is what it was before: replay, for one, sets the variables of the script."""
    before = dict(os.environ)
    yield
    current = os.environ.pop("PYTEST_CURRENT_TEST", None)
    before.pop("PYTEST_CURRENT_TEST", None)
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)
    if current is not None:
        os.environ["PYTEST_CURRENT_TEST"] = current


@pytest.fixture(scope="session")
def scripts() -> Path:
    """The zoo of entry scripts."""
    return SCRIPTS


@pytest.fixture
def files(tmp_path):
    """A folder with a hundred small files."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(100):
        (folder / f"f{number:03d}.txt").write_text(f"{number}\n")
    return folder


@pytest.fixture(scope="session")
def postgresql():
    """A PostgreSQL server."""
    from . import postgresql as module

    if module.programs() is None:
        pytest.skip("no PostgreSQL here (Debian package postgresql)")
    with module.server() as server:
        yield server


@pytest.fixture(scope="session")
def uv_program(tmp_path_factory) -> Path:
    """uv from PyPI."""
    folder = tmp_path_factory.mktemp("uv")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "uv"]
    subprocess.run(command, check=True, timeout=300)
    return folder / "bin" / "uv"


GPUS = {
    "two": """\
GPU 0: Tesla T4 (UUID: GPU-8932f937-d72c-4106-c12f-20bd9faed9f6)
GPU 1: Tesla T4 (UUID: GPU-b4e9a4ac-bc35-4b75-88f6-3a8e6e6b0f5e)
""",
    "parts": """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)
  MIG 3g.20gb     Device  0: (UUID: MIG-GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f/1/0)
  MIG 1c.3g.20gb  Device  1: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-b7d1f0ab-d268-c3f3-1b07-005d5ae1dc3f)
""",
    "none": "No devices found.\n",
}


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a program on the path that lists GPUs as nvidia-smi does; ``runs()`` counts how often it ran."""
    folder = tmp_path / "nvidia"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("prefect_parallel_run.node.gpus._PATIENCE", 300.0)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)

    def install(listing, end="exit 0"):
        program = folder / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho $* >> '{folder}/runs'\ncat <<'END'\n{GPUS[listing]}END\n{end}\n")
        program.chmod(0o755)

    log = folder / "runs"
    install.runs = lambda: len(log.read_text().splitlines()) if log.exists() else 0
    return install
