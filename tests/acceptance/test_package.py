"""The wheel that is published: built, checked, installed alone, and used."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=600, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    return folder


def test_it_is_fit_to_be_published(built):
    """A wheel and a source distribution, with metadata that PyPI accepts."""
    assert sorted(path.suffix for path in built.iterdir()) == [".gz", ".whl"]
    run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir())


def test_the_wheel_has_the_package_only(built):
    """No tests, no caches; what is not Python in the package is there too."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    package = ROOT / "prefect_parallel_run"
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sorted(names) == sorted(str(path.relative_to(ROOT)) for path in files)


def test_the_main_job_runs_from_the_wheel(built, uv_program, tmp_path):
    """In an environment that has nothing else, from a folder that is not the repository."""
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    run(uv_program, "pip", "install", "--quiet", "--python", python, f"{wheel}[examples]")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    (tmp_path / "digits").mkdir()
    output = run(python, ROOT / "flows" / "digits.py", tmp_path / "out", cwd=tmp_path / "digits", env=environment)
    assert "1797 of 1797 items succeeded" in output
    place = run(python, "-c", "import prefect_parallel_run as p; print(p.__file__)", cwd=tmp_path, env=environment)
    assert Path(place.strip()).is_relative_to(tmp_path / "venv")
