"""The environment plan that a node receives."""

import json
import pickle
import sys
from dataclasses import asdict

import pytest

from prefect_parallel_run.config.where import Environment
from prefect_parallel_run.environments import EnvironmentPlan, environment_plan, interpreter_of
from prefect_parallel_run.errors import EnvironmentSetupError


def test_a_plan_contains_the_conda_file(tmp_path):
    """A node cannot read files of the flow's machine."""
    (tmp_path / "conda.yml").write_text("dependencies: [python=3.11, é]\n", encoding="utf-8")
    plan = environment_plan(Environment(requirements=["six"], conda_file=str(tmp_path / "conda.yml"), name="n"))
    assert plan == EnvironmentPlan(requirements=("six",), conda="dependencies: [python=3.11, é]\n", name="n")
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert json.loads(json.dumps(asdict(plan)))["requirements"] == ["six"]


def test_the_fingerprint_covers_all_but_the_name():
    """The name is for display only."""
    plans = [
        EnvironmentPlan(),
        EnvironmentPlan(requirements=("six",)),
        EnvironmentPlan(requirements=("six", "attrs")),
        EnvironmentPlan(requirements=("six",), python="3.9"),
        EnvironmentPlan(requirements=("six",), conda="x"),
    ]
    assert len({plan.fingerprint for plan in plans}) == len(plans)
    assert EnvironmentPlan(name="a").fingerprint == EnvironmentPlan(name="b").fingerprint


def test_the_title_is_the_name_or_a_short_summary():
    """A long list of requirements is shortened."""
    assert EnvironmentPlan(name="scoring", requirements=("six",)).title == "scoring"
    assert EnvironmentPlan().title == "without packages"
    assert EnvironmentPlan(conda="x", requirements=("six",)).title == "with a conda file, six"
    assert EnvironmentPlan(requirements=("a @ https://me:pass@host/a",)).title == "with a @ https://***@host/a"
    assert EnvironmentPlan(requirements=("six",) * 100).title == "with 100 requirements"


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), (b"\xff\xfe", "cannot be read"), (b" \n", "is empty"), (b"x" * 2**21, "is over")],
)
def test_an_invalid_conda_file_is_named(tmp_path, content, words):
    """Before anything runs."""
    path = tmp_path / "conda.yml"
    path.write_bytes(content or b"x")
    environment = Environment(conda_file=str(path))
    if content is None:
        path.unlink()
    with pytest.raises(EnvironmentSetupError, match=rf"conda_file .*conda.yml {words}"):
        environment_plan(environment)


def test_an_interpreter_is_found_by_its_or_a_venvs_path(tmp_path, monkeypatch):
    """Links are not resolved, and ~ is the home on the checking machine."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    link = tmp_path / "venv" / "bin" / "python"
    link.symlink_to(sys.executable)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert interpreter_of(str(link)) == interpreter_of(str(tmp_path / "venv")) == interpreter_of("~/venv") == str(link)
    assert interpreter_of(None) is None
    with pytest.raises(EnvironmentSetupError, match=r"the interpreter .*none.* does not exist"):
        interpreter_of(str(tmp_path / "none"))
    (tmp_path / "text").write_text("")
    with pytest.raises(EnvironmentSetupError, match="is not executable"):
        interpreter_of(str(tmp_path / "text"))
