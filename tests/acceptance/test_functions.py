"""Steps from functions, and scripts that call services, as the guides show them."""

import re
from pathlib import Path

from prefect_parallel_run.runs.run_directory import RunDirectory, write_json

from ..services import service
from .test_readme import ROOT, run

PAGE = (ROOT / "docs" / "guides" / "functions.md").read_text()


def block(language):
    return re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[1]


def test_the_guide_word_for_word(tmp_path):
    """In a flow, and with the same function named by a configuration."""
    (tmp_path / "nightly.py").write_text(block("python"))
    (tmp_path / "nightly.yml").write_text(block("yaml"))
    (tmp_path / "data").mkdir()
    for number in range(12):
        (tmp_path / "data" / f"{number:02d}.bin").write_bytes(b"x" * number)
    rows = [f"{number:02d}.bin {number} bytes" for number in range(12)]
    ended = run("nightly.py", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / "parallel_run_step.txt").read_text().splitlines() == rows
    program, *arguments = block("bash").replace("'", "").split()
    assert program == "prefect-parallel-run"
    ended = run("-m", "prefect_parallel_run.cli", *arguments, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out2" / "parallel_run_step.txt").read_text().splitlines() == rows
    (description,) = Path(tmp_path, "out2").glob("_parallel_run/*/run.json")
    command = ("-m", "prefect_parallel_run.cli", "replay", str(description.parent), "--mini-batch", "0")
    ended = run(*command, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "11.bin 11 bytes" in ended.stdout


def test_the_guide_to_services_word_for_word(tmp_path):
    """A flow, with a service that answers only when fifty calls wait."""
    page = (ROOT / "docs" / "guides" / "async.md").read_text()
    script, flow, _ = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "score.py").write_text(script)
    (tmp_path / "flow.py").write_text(flow)
    (tmp_path / "texts").mkdir()
    for number in range(400):
        (tmp_path / "texts" / f"{number:03d}.txt").write_text("x" * number)
    with service(together=50) as server:
        ended = run("flow.py", server.url, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    rows = (tmp_path / "out" / "parallel_run_step.txt").read_text().splitlines()
    assert rows == [f"{number:03d}.txt {number} bytes" for number in range(400)]
    assert (server.calls, server.most) == (400, 50)


def test_a_step_from_functions_travels_and_is_reused(workshop, shared_cluster, monkeypatch):
    """On a cluster, with a source directory; a second call with unchanged code runs nothing."""
    import importlib.util

    from prefect import flow

    path = workshop.folder / "code" / "steps.py"
    path.parent.mkdir()
    path.write_text((workshop.scripts / "from_functions.py").read_text())
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    spec = importlib.util.spec_from_file_location("steps_of_a_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    @flow
    def twice():
        calls = {"inputs": workshop.files, "output": workshop.output}
        step = step_on(workshop.target, module)
        return step(**calls), step.submit(**calls).result()

    first, second = twice()
    assert (first.rows, first.reused, second.reused) == (100, False, True)
    rows = (workshop.output / "parallel_run_step.txt").read_text().splitlines()
    assert {row.split()[0] for row in rows} == {"begin"}


def step_on(target, module):
    """The step with another compute target; the file has none, because each session has another cluster."""
    from prefect_parallel_run import parallel_run

    options = {"source_directory": str(Path(module.__file__).parent), "compute_target": target}
    step = parallel_run(error_threshold=0, output_action="append_row", **options)(module.tells.run)
    step.init(module.begin)
    step.shutdown(module.end)
    return step


STEPS = """
from prefect_parallel_run import parallel_run

is_main = __name__ == "__main__"
calls = []


@parallel_run(error_threshold=0, output_action="append_row", inputs="item.txt", output="out")
def score(paths):
    return [" ".join(["scored", *calls])]


def load():
    calls.append("loaded")


if is_main:
    score.init(load)
"""
FLOW = """
from prefect import flow
from steps import score

print(flow(lambda: score(), name="nightly")())
"""


def test_neither_reuse_nor_resume_misses_a_hook(tmp_path):
    """The file registers it only as __main__: a result without it stays, but is not that of the step with it."""
    (tmp_path / "item.txt").write_text("x")
    (tmp_path / "flow.py").write_text(FLOW)
    (tmp_path / "steps.py").write_text(
        STEPS + FLOW.replace("from steps import score", "").replace("print", "is_main and print")
    )
    result, runs = tmp_path / "out" / "parallel_run_step.txt", tmp_path / "out" / "_parallel_run"
    missing = "score.init is load() in the flow process but not registered in this process"

    assert run("flow.py", cwd=tmp_path).returncode == 0
    assert result.read_text() == "scored\n"
    (without,) = runs.glob("score-*")
    ended = run("steps.py", cwd=tmp_path)
    assert ended.returncode == 1
    assert missing in ended.stderr
    (directory,) = set(runs.glob("score-*")) - {without}
    ended = run("-m", "prefect_parallel_run.cli", "resume", str(directory), cwd=tmp_path)
    assert ended.returncode == 1
    assert missing in ended.stderr
    assert result.read_text() == "scored\n"

    description = RunDirectory(without).metadata()
    del description["hooks"]  # as in a run of an earlier version, which does not say; it is the newer one from here on
    write_json(without / "run.json", description)
    assert run("steps.py", cwd=tmp_path).returncode == 0
    assert set(runs.glob("score-*")) == {without, directory}
