"""The Python printed by the command ``import`` runs, and is equivalent to the file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_parallel_run import FileDataset, TabularDataset
from prefect_parallel_run.azureml.codegen import python_source, render
from prefect_parallel_run.azureml.findings import ImportedStep, StepCall
from prefect_parallel_run.azureml.load import Imported, load
from prefect_parallel_run.cli import main

DATA = Path(__file__).parents[1] / "data" / "azure"
FILES = ["iris/pipeline.yml", "sales/pipeline.yml", "digits/pipeline.yml", "digits/component.yml", "version_1.yml"]


PLACES = {
    "sales/pipeline.yml": {"${{parent.jobs.partition.outputs.table}}": "/data/sales.parquet"},
    "digits/component.yml": {"${{inputs.images}}": "/data/images"},
}


def executed(source):
    names = {"__name__": "imported"}
    exec(compile(source, "imported.py", "exec"), names)
    return names


@pytest.mark.parametrize("file", FILES)
def test_the_printed_python_makes_the_same_steps(file, monkeypatch):
    """Configuration, inputs, output, arguments: all of it."""
    monkeypatch.setenv("GREETING", "hello")
    imported = load(DATA / file, PLACES.get(file))
    made = executed(python_source(imported))
    for step in imported.steps:
        found = made[step.name]
        expected = step.step_arguments()
        assert found.parallel_run_config == expected["parallel_run_config"]
        given = {key: found._defaults[key] for key in ("output", "side_inputs", "arguments", "allow_reuse")}
        assert given == {key: expected[key] for key in given}
        assert found._defaults["inputs"] == expected["inputs"]
    assert made["main"].__class__.__name__ == "Flow"


@pytest.mark.parametrize("folder", ["iris/flowers", "sales/days"])
def test_the_printed_python_makes_the_same_dataset(folder):
    """From an MLTable file."""
    imported = load(DATA / folder)
    assert executed(python_source(imported))["dataset"] == imported.dataset


@pytest.mark.parametrize("file", [*FILES, "iris/flowers"])
def test_the_printed_python_imports_what_it_uses(file):
    """And nothing else."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,E9,W", "--quiet", "-"]
    subprocess.run(command, check=True, input=python_source(load(DATA / file)), text=True, timeout=60)


HOSTILE = ["\"'\\", "new\nline", "\u2028", "é☃", "\x00", "{output}", "#", '"""', "\ud800", "a" * 200, "tab\t"]


def test_hostile_strings_are_quoted():
    """In names, paths and arguments."""
    for text in HOSTILE:
        assert eval(render({text: [text]})) == {text: [text]}


def test_comments_cannot_be_broken_out_of():
    """A line break in a value would turn the rest into code."""
    step = ImportedStep(file=Path("a\nimport os"), name="a", fields={}, call=StepCall(arguments=("--x\n", "y")))
    source = python_source(Imported(file=Path("x\rraise SystemExit"), steps=(step,)))
    assert executed_lines(source)[:2] == ["import sys", "from prefect import flow"]


def executed_lines(source):
    return [line for line in source.splitlines() if line and not line.startswith("#")]


def test_passwords_and_secrets_are_not_printed():
    """Values of environment variables come from the environment."""
    environment = {"requirements": ["--index-url https://me:canary@host/simple", "six"]}
    fields = {"environment": environment, "environment_variables": {"TOKEN": "canary", "B": "${OTHER}"}}
    source = python_source(Imported(file=Path("f"), steps=(ImportedStep(file=Path("f"), name="a", fields=fields),)))
    assert "canary" not in source
    assert 'environment_variables={"TOKEN": variable("TOKEN"), "B": variable("OTHER")}' in source
    with pytest.raises(LookupError, match="set TOKEN in the environment before running this"):
        executed(source)
    assert "Passwords in requirements are omitted" in source


@pytest.mark.parametrize(
    "dataset",
    [
        FileDataset.from_files(["/a", "/b"], partition_format="{user}/*.wav", allow_empty=True),
        TabularDataset.from_json_lines_files("/a", encoding="latin-1").as_named_input("x"),
        TabularDataset.from_delimited_files("/a", delimiter="\t", header=False),
        TabularDataset.from_parquet_files("/a").keep_columns(["x", "y"]).as_named_input("x"),
        TabularDataset.from_parquet_files("/a").drop_columns("x"),
    ],
)
def test_datasets_of_all_kinds(dataset):
    """Default values are left out."""
    assert executed(python_source(Imported(file=Path("f"), dataset=dataset)))["dataset"] == dataset


def command(*arguments):
    return main(["import", *map(str, arguments)])


def test_the_command_prints_python_with_the_differences_in_front(capsys):
    """stdout can be saved as a file; required decisions come first, and stderr has their number."""
    assert command(DATA / "sales" / "pipeline.yml") == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].startswith("# To be decided before it is run")
    assert "--map '${{parent.jobs.partition.outputs.table}}=PLACE'" in " ".join(printed.out.replace("#", " ").split())
    assert "1 field needs a decision" in printed.err
    assert max(len(line) for line in printed.out.splitlines() if line.startswith("#")) <= 100


def test_python_with_open_decisions_raises(tmp_path):
    """A call replaces the path, or precedes the statement, and names the open field."""
    source = python_source(load(DATA / "sales" / "pipeline.yml"))
    assert "TabularDataset.from_parquet_files(" in source
    with pytest.raises(NotImplementedError, match=r"to be decided: inputs\.sales\.path \$\{\{parent"):
        executed(source)
    (tmp_path / "MLTable").write_text("paths: [{file: ./a.csv}]\ntransformations: [read_delimited, {take: 5}]\n")
    with pytest.raises(NotImplementedError, match=r"to be decided: transformations\.take 5: every row reaches run\(\): write"):
        executed(python_source(load(tmp_path)))


def test_the_command_prints_json(capsys):
    """With the same information as the Python."""
    assert command(DATA / "digits" / "component.yml", "--json", "--map", "${{inputs.images}}=/data") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["undecided"], [step["name"] for step in found["steps"]]) == (0, ["recognise"])
    assert {"field": "version", "outcome": "left out", "given": "1.0.0"}.items() <= _of(found, "version").items()
    assert "ParallelRunStep(" in found["python"]


def _of(found, field):
    return next(entry for entry in found["steps"][0]["differences"] if entry["field"] == field)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((DATA / "version_1.yml", "--map", "cpu-cluster"), "--map: expected REFERENCE=PLACE, got 'cpu-cluster'"),
        ((DATA / "version_1.yml", "--map", "gpu=x"), "the file has no reference gpu"),
        ((DATA / "none.yml",), "none.yml: cannot read it: No such file or directory"),
    ],
)
def test_usage_errors_of_the_command(arguments, message, capsys):
    """One line, and an exit code of their own."""
    assert command(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["in"], ["in", "out", "more"]])
def test_python_without_inputs_prints_its_usage(arguments, monkeypatch):
    """A configuration of version 1 has no inputs; without arguments the flow would fail with a traceback."""
    monkeypatch.setenv("GREETING", "hello")
    monkeypatch.setattr(sys, "argv", ["imported.py", *arguments])
    source = python_source(load(DATA / "version_1.yml"))
    with pytest.raises(SystemExit, match=r"^usage: imported\.py INPUTS OUTPUT$"):
        exec(compile(source, "imported.py", "exec"), {"__name__": "__main__"})
