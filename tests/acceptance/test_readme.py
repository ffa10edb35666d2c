"""What the README shows is what happens."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python_blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def run(*command, cwd):
    """Run Python on the session's Prefect server."""
    from prefect.settings import PREFECT_API_URL

    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_whole_example(tmp_path):
    """Copied into two files and run, word for word."""
    script, flow = python_blocks()[:2]
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "measure.py").write_text(script)
    (tmp_path / "flow.py").write_text(flow)
    (tmp_path / "data").mkdir()
    for number in range(25):
        (tmp_path / "data" / f"{number:02d}.bin").write_bytes(b"x" * number)
    ended = run("flow.py", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    rows = (tmp_path / "out" / "parallel_run_step.txt").read_text().splitlines()
    assert rows == [f"{number:02d}.bin {number} bytes" for number in range(25)]


def test_tabular(tmp_path):
    """The same table from Parquet and from CSV."""
    ended = run(str(ROOT / "flows" / "tabular.py"), str(tmp_path / "t"), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "8840 rows scored twice, with equal results" in ended.stdout + ended.stderr


def test_many_models(tmp_path):
    """One model per store and brand, and forecasts that are close."""
    ended = run(str(ROOT / "flows" / "many_models.py"), str(tmp_path / "m"), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    models = sorted(path.name for path in (tmp_path / "m" / "models").glob("*.joblib"))
    assert len(models) == 60
    assert models[0] == "1000 dominicks.joblib"
    said = ended.stdout + ended.stderr
    assert float(re.search(r"7200 forecasts in \S+, ([0-9.]+) % off", said)[1]) < 5


@pytest.mark.parametrize("name", ["pytest", "flows/digits.py"])
def test_ci_does_what_the_readme_says(name):
    """Lint and types come on top."""
    assert name in (ROOT / ".ci" / "run").read_text()
    assert name in (ROOT / "README.md").read_text()
