"""Steps whose script runs in another interpreter, in which nothing of ours is installed."""

import subprocess
from pathlib import Path

import pytest

from prefect_parallel_run import TabularDataset
from prefect_parallel_run.errors import EnvironmentSetupError
from prefect_parallel_run.node.environments import base_of

TELLS = """\
import sys
from prefect_parallel_run import EntryScript
def run(mini_batch):
    assert "pandas" not in sys.modules
    return [sys.version.split()[0]] * len(mini_batch)
"""
ALONE = {"PYTHONPATH": ""}  # which may lead to our package when the tests run
DOUBLES = """\
import sys, pandas
def run(mini_batch):
    assert isinstance(mini_batch, pandas.DataFrame), type(mini_batch)
    return pandas.DataFrame({"double": mini_batch["n"] * 2, "at": sys.prefix})
"""


def python(version):
    """Path of an interpreter of this version."""
    try:
        return base_of(version, "test", has_uv=False).python
    except EnvironmentSetupError:
        pytest.skip(f"there is no Python {version} on this machine")


@pytest.fixture
def code(tmp_path):
    """Makes the folder of a script."""

    def make(name, text):
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / name).write_text(text)
        return str(tmp_path / "code")

    return make


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13"])
def test_files_need_a_bare_interpreter(workshop, code, version):
    """Of any version that a child can run on."""
    folder = code("tells.py", TELLS)
    step = workshop.step("tells.py", source_directory=folder, environment=python(version), environment_variables=ALONE)
    rows = Path(step().output_file).read_text().split()
    assert len(rows) == 100
    assert {row.rpartition(".")[0] for row in rows} == {version}


def test_tables_need_pandas_and_pyarrow(workshop, code, uv_program, tmp_path):
    """In a virtual environment that has them, of the oldest version."""
    place = tmp_path / "venv"
    base = python("3.9")
    for command in (["venv", "--python", base, str(place)], ["pip", "install", "--python", str(place), "pandas", "pyarrow"]):
        subprocess.run([str(uv_program), *command], check=True, timeout=300)
    table = tmp_path / "table.csv"
    table.write_text("n,text\n" + "".join(f"{number},row {number}\n" for number in range(1000)))
    step = workshop.step(
        "doubles.py",
        source_directory=code("doubles.py", DOUBLES),
        environment=str(place),
        environment_variables=ALONE,
        inputs=TabularDataset.from_delimited_files([str(table)]),
        mini_batch_size="4KB",
        error_threshold=0,
    )
    rows = Path(step().output_file).read_text().splitlines()
    assert rows == [f"{number * 2} {place}" for number in range(1000)]
