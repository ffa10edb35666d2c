"""The files that a contributor relies on beside the package: workflows, documented commands, versions."""

import re
from pathlib import Path

import pytest
import yaml

from prefect_parallel_run import __version__

ROOT = Path(__file__).parents[2]
CI = (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_a_workflow_is_valid(path):
    """Every job has a machine and steps, every step does one thing, and every job that is needed exists."""
    workflow = yaml.safe_load(path.read_text())
    assert workflow.keys() >= {"name", True, "jobs", "permissions"}  # YAML reads "on" as true
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        assert {job["needs"]} <= workflow["jobs"].keys() if "needs" in job else True
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[\w./-]+", step["uses"]) if "uses" in step else step["run"].strip()


def test_the_workflows_test_the_pythons_that_the_package_names():
    """The oldest of them with the oldest dependencies."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    project = (ROOT / "pyproject.toml").read_text()
    pythons = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert jobs["versions"]["strategy"]["matrix"]["python"] == pythons
    assert jobs["versions"]["strategy"]["matrix"]["include"] == [{"python": pythons[0], "dependencies": "oldest"}]
    assert f'requires-python = ">={pythons[0]}"' in project
    assert jobs["whole"]["steps"][-1] == {"run": ".ci/run"}


def test_the_documented_checks_are_those_of_ci():
    """CONTRIBUTING.md says that .ci/run runs them all, and so it does; `pytest -n 2` runs its three tiers."""
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    commands = {command for row in rows for command in row.split(" && ")}
    assert commands >= {"ruff check .", "mypy", "pytest -n 2", ".ci/run"}
    in_pytest = {f"pytest tests/{tier}" for tier in ("unit", "integration", "acceptance")}
    assert commands - in_pytest - {".ci/run"} <= set(CI.splitlines())


def test_the_version_is_in_one_place():
    """Everything else that names it is checked against the package's."""
    newest = re.search(r"^## (\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__
    for path in (ROOT / "deployments").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert set(re.findall(r"prefect-parallel-run:(\d+\.\d+\.\d+)", path.read_text())) <= {__version__}, path
