"""The program prefect-parallel-run at a terminal and in scripts."""

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from prefect_parallel_run.cli import main

from ..processes import IGNORED, interrupt
from ..terminal import Terminal
from .conftest import ours, wait_until
from .faults.conftest import Started
from .prefect_at_work import Prefect

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "prefect_parallel_run.cli"]


class Program:
    """Starts the program over the workshop's files, on the session's server."""

    def __init__(self, workshop):
        from prefect.settings import PREFECT_API_URL

        self.workshop = workshop
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": PREFECT_API_URL.value(), "TERM": "xterm"}

    def config(self, script="counts.py", **fields):
        path = self.workshop.folder / f"{Path(script).stem}.yml"
        self.workshop.config(script, **fields).save_to_yaml(path)
        return path

    def run(self, *options, stdin=None, code=0):
        """Return what was printed to stdout and to stderr."""
        command, pipes = [*PROGRAM, *map(str, options)], {"capture_output": True, "text": True}
        done = subprocess.run(command, check=False, input=stdin, env=self.environment, timeout=300, **pipes)
        assert done.returncode == code, done.stderr
        return done.stdout, done.stderr

    def start(self, terminal, *options):
        return terminal.start([*PROGRAM, *map(str, options)], env=self.environment, start_new_session=True)


@pytest.fixture
def program(workshop):
    return Program(workshop)


def run_directory(workshop):
    return next((workshop.output / "_parallel_run").glob("*/run.json")).parent


def test_run_and_show_at_terminals(program, workshop):
    """Bar and log lines do not garble each other; show follows the run and ends with it; both leave a clean screen."""
    gate = workshop.folder / "gate"
    options = [program.config("gated.py"), "--input", workshop.files, "--output", workshop.output]
    script_arguments = ["--", "--log", workshop.log, "--gate", 9, "--open", gate]
    terminal, beside = Terminal(160, 50), Terminal(100)
    running = program.start(terminal, "run", *options, *script_arguments)
    try:
        terminal.wait_for(lambda lines: any(line.startswith("gated  ━") and "9 of 10 mini-batches" in line for line in lines))
        showing = program.start(beside, "show", workshop.output)
        shown = ("succeeded 9, failed 0, not reached 1", "━+─+ 90 %  waiting for 1 mini-batch$")
        shown += (rf"running \(process {running.pid} on ",)
        beside.wait_for(lambda lines: all(any(re.search(words, line) for line in lines) for words in shown))
        gate.touch()
        assert running.wait(300) == 0
        assert showing.wait(300) == 0
    finally:
        gate.touch()
        running.wait(300)
        lines, seen = terminal.close(), beside.close()
    assert not any("━" in line or "finishing" in line for line in lines), lines
    assert any(line.startswith("gated: 100 of 100 items succeeded, 0 failed, 100 rows") for line in lines), lines
    logged = [line for line in lines if " | " in line]
    assert logged
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3} \| ", line) for line in logged), logged
    assert any(f"{run_directory(workshop).name}: succeeded" in line for line in seen), seen
    assert not any("━" in line for line in seen), seen
    assert (workshop.output / "parallel_run_step.txt").read_text().split() == [f"f{number:03d}.txt" for number in range(100)]


def test_failed_items_can_be_piped_into_a_new_run(program, workshop, capsys):
    """With --json stdout has only JSON, also if the run fails."""
    config = program.config("poison.py", error_threshold=5, run_max_try=1, mini_batch_size=2)
    options = ["--input", workshop.files, "--output", workshop.output, "--json"]
    script_arguments = ["--", "--log", workshop.log, "--how", "raise", "--poison", 3]
    printed, log = program.run("run", config, *options, "--set", "error_threshold=1", *script_arguments, code=1)
    assert sum(line.startswith("LimitExceededError: ") for line in log.splitlines()) == 1
    assert "LimitExceededError(" not in log  # as Prefect logs the exception of the flow
    error = json.loads(printed)
    assert (error["error"]["limit"], error["error"]["allowed"], error["error"]["actual"]) == ("error_threshold", 1, 2)
    assert error["next"][0] == f"prefect-parallel-run failed {run_directory(workshop)}"
    printed, log = program.run("run", config, *options, "--name", "poison", *script_arguments)  # resumes that run
    result = json.loads(printed)
    assert (result["items_succeeded"], result["items_failed"], result["name"]) == (98, 2, "poison")
    assert "Traceback" not in printed
    assert "Task run 'poison'" in log

    items, _ = program.run("failed", result["run_directory"], "--items")
    assert items.splitlines() == [str(workshop.files / "f006.txt"), str(workshop.files / "f007.txt")]
    again = workshop.folder / "again"
    fixed = program.config("counts.py")
    printed, _ = program.run("run", fixed, "--input-list", "-", "--output", again, "--", "--log", workshop.log, stdin=items)
    assert printed.startswith("counts: 2 of 2 items succeeded")
    assert (again / "parallel_run_step.txt").read_text().split() == ["f006.txt", "f007.txt"]
    assert main(["verify", str(again)]) == 0
    assert main(["list", str(workshop.output), "--json"]) == 0
    listed = capsys.readouterr().out
    assert [run["status"] for run in json.loads(listed[listed.index("[\n") :])] == ["succeeded"]
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        names = {flow.id: flow.name for flow in client.read_flows()}
        runs = [(names[run.flow_id], run.name) for run in client.read_flow_runs()]
    assert ("prefect-parallel-run", "counts") in runs


def test_ctrl_c_suggests_resume_which_shows_a_bar(program, workshop):
    """Exit code 130, no process is left running, and completed mini-batches do not run again.

    A terminal signals all processes, including Prefect's temporary server, which must record how the run ended.
    """
    del program.environment["PREFECT_API_URL"]
    program.environment["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "180"
    gate = workshop.folder / "gate"
    options = [program.config("gated.py"), "--input", workshop.files, "--output", workshop.output]
    terminal = Terminal(160, 50)
    running = program.start(terminal, "run", *options, "--", "--log", workshop.log, "--gate", 9, "--open", gate)
    try:
        terminal.wait_for(lambda lines: any("9 of 10 mini-batches" in line for line in lines))
        send = partial(os.killpg, running.pid, signal.SIGINT)
        interrupt(send, lambda: running.poll() is not None, lambda: "\n".join(terminal.wait_for(lambda _: True)))
        assert running.wait(300) == 130
    finally:
        gate.touch()
        running.wait(300)
        lines = terminal.close()
    wait_until(lambda: not ours())
    run = run_directory(workshop)
    printed = IGNORED.sub("", "".join(lines))
    assert "cancelled; completed mini-batches are kept" in printed, lines
    assert f"prefect-parallel-run resume {run}" in printed, lines
    assert "Traceback" not in printed, lines
    done = len(workshop.invocations())
    terminal = Terminal(160)
    resumed = program.start(terminal, "resume", workshop.output)
    try:
        assert resumed.wait(300) == 0
    finally:
        resumed.wait(300)
        lines = terminal.close()
    assert any("gated: 100 of 100 items succeeded" in line for line in lines), lines
    assert not any("━" in line for line in lines), lines
    assert len(workshop.invocations()) == done + 1


def test_an_unreachable_prefect_api_is_one_line(program, workshop):
    """Nothing starts, and no traceback is shown."""
    program.environment["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    options = [program.config("echo.py"), "--input", workshop.files, "--output", workshop.output]
    _, errors = program.run("run", *options, code=1)
    assert errors.splitlines()[-1].startswith("cannot reach Prefect's API: ")
    assert "Traceback" not in errors
    assert not workshop.output.exists()


def test_an_api_that_is_lost_hides_no_error(program, workshop, tmp_path_factory):
    """Prefect's own error then says nothing about the run."""
    gate, begun = workshop.folder / "gate", workshop.folder / "begun"
    script = workshop.folder / "scripts" / "fails_late.py"
    script.parent.mkdir()
    script.write_text(
        "import pathlib, time\n\n\ndef run(mini_batch):\n"
        f"    pathlib.Path({str(begun)!r}).touch()\n"
        f"    while not pathlib.Path({str(gate)!r}).exists():\n        time.sleep(0.01)\n"
        "    raise OSError('no disk')\n"
    )
    fields = {"mini_batch_size": 100, "run_max_try": 1, "error_threshold": 0}
    options = [program.config(script.name, source_directory=str(script.parent), **fields), "--input", workshop.files]
    prefect = Prefect(tmp_path_factory.mktemp("lost"))
    program.environment["PREFECT_API_URL"] = prefect.api
    try:
        prefect.start("server", "start", "--port", str(prefect.port))
        wait_until(prefect.is_up)
        command = [*PROGRAM, "run", *map(str, options), "--output", str(workshop.output)]
        with Started(command, stderr=subprocess.PIPE, text=True, env=program.environment) as running:
            wait_until(lambda: begun.exists() or running.poll() is not None)
            prefect.stop()
            gate.touch()
            _, errors = running.communicate(timeout=600)
    finally:
        prefect.stop()
    assert running.returncode == 1
    lost = "lost the connection to Prefect's API, which does not know how the run ended: "
    ended = "LimitExceededError: error_threshold exceeded: 100 failed items, 0 allowed; first failure: mini-batch 0: OSError: "
    for beginning in (lost, ended):  # among what Prefect's own threads say about the API
        assert any(line.startswith(beginning) for line in errors.splitlines()), errors


@pytest.mark.parametrize("with_server", [True, False])
def test_a_home_that_cannot_be_created_is_one_message(program, workshop, with_server):
    """Whether Prefect's embedded server or the step needs it first."""
    (workshop.folder / "file").touch()
    program.environment["PREFECT_HOME"] = str(workshop.folder / "file" / "home")
    if not with_server:
        del program.environment["PREFECT_API_URL"]
    options = [program.config("echo.py"), "--input", workshop.files, "--output", workshop.output]
    _, errors = program.run("run", *options, code=1)
    home = f"PrefectHomeError: PREFECT_HOME is {workshop.folder}/file/home, which is not writable: "
    assert errors.splitlines()[-1].startswith(home), errors
    assert with_server or len(errors.splitlines()) == 1, errors
    assert "Traceback" not in errors
    assert not workshop.output.exists()


def test_a_broken_pipe_is_silent(program, workshop):
    """As with head: no message, and an exit code of its own."""
    command = [*PROGRAM, "plan", str(program.config("echo.py")), "--input", str(workshop.files)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=program.environment) as planning:
        planning.stdout.close()
        assert planning.stderr.read() == b""
    assert planning.returncode == 141


@pytest.mark.parametrize(
    ("command", "closed"), [("run", "<&- >&- 2>&-"), ("plan", ">&-"), ("try", "2>&-")], ids=["run", "plan", "try"]
)
def test_closed_standard_streams_fail_no_command(program, workshop, command, closed):
    """As some schedulers close them; the files that are opened instead are written as always."""
    options = [program.config("talks.py"), "--input", workshop.files, "--output", workshop.output]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *PROGRAM, command, *map(str, options)]
    done = subprocess.run(shell, check=False, capture_output=True, text=True, env=program.environment, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (command == "try")
    if command == "run":
        program.run("verify", workshop.output)


def test_a_full_disk_behind_stdout_is_named(program, workshop):
    """In one line, with the exit code of a failure."""
    options = [program.config("talks.py"), "--input", workshop.files]
    with open("/dev/full", "wb") as full:
        command = [*PROGRAM, "plan", *map(str, options)]
        done = subprocess.run(
            command, check=False, text=True, stdout=full, stderr=subprocess.PIPE, env=program.environment, timeout=300
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["stdout: No space left on device"]


def run_without_reader(program, stream, *arguments):
    """Run the program with a broken pipe as stdout or stderr; return its exit code, and the text on the other one."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [*PROGRAM, *map(str, arguments)]
    with open(writer, "wb", buffering=0) as broken:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: broken}
        done = subprocess.run(command, check=False, text=True, env=program.environment, timeout=300, **streams)
    return done.returncode, done.stderr if stream == "stdout" else done.stdout


@pytest.mark.parametrize("command", ["run", "try"])
def test_a_broken_pipe_of_stderr_fails_no_command(program, workshop, command):
    """The messages are dropped, and the result is printed."""
    options = [program.config("talks.py"), "--input", workshop.files, "--output", workshop.output]
    code, result = run_without_reader(program, "stderr", command, *options)
    assert code == 0
    assert result


def test_a_usage_error_keeps_its_exit_code_without_stderr(program):
    """It is all that remains of the message."""
    assert run_without_reader(program, "stderr", "wrong") == (2, "")


def test_prints_of_a_replayed_script_may_break_the_pipe(program, workshop):
    """The script is not reported as failed."""
    program.run("run", program.config("talks.py"), "--input", workshop.files, "--output", workshop.output)
    code, messages = run_without_reader(program, "stdout", "replay", "--mini-batch", 0, workshop.output)
    assert code == 141
    assert "BrokenOutputError" not in messages


def test_a_broken_pipe_ends_help_and_try(program, workshop):
    """As it ends other commands."""
    assert run_without_reader(program, "stdout", "--help") == (141, "")
    options = [program.config("echo.py"), "--input", workshop.files]
    assert run_without_reader(program, "stdout", "try", *options) == (141, "")


def test_help_is_fast(program):
    """It imports no heavy package."""
    code = (
        "import sys\n"
        "from prefect_parallel_run.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'prefect', 'dask', 'distributed', 'pandas', 'pyarrow', 'pydantic', 'yaml', 'rich'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, env=program.environment, stdout=subprocess.DEVNULL)
