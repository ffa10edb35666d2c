"""What all tests share."""

from __future__ import annotations

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
def uv_program(tmp_path_factory) -> Path:
    """uv from PyPI."""
    folder = tmp_path_factory.mktemp("uv")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "uv"]
    subprocess.run(command, check=True, timeout=300)
    return folder / "bin" / "uv"
