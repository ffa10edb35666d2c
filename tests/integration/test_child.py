"""One supervised child: the entry script's contract, and everything that may go wrong in it."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from prefect_parallel_run._threads import begin
from prefect_parallel_run.node import child_process
from prefect_parallel_run.node.child_startup import ChildFactory
from prefect_parallel_run.node.node_log import ProcessLog
from prefect_parallel_run.node.reaper import Guard, marked
from prefect_parallel_run.node.slot import SlotStoppedError, SlotUnusableError

from ..interpreter import facts_of
from ..processes import lives
from .conftest import seconds_since, wait_until

OUTCOMES = {
    "raise": ("raised", "ZeroDivisionError", "division by zero"),
    "exit": ("died", "exit status 3", "its process exited"),
    "kill": ("died", "SIGKILL", "its process was killed"),
    "segfault": ("died", "SIGSEGV", "its process was killed"),
    "system_exit": ("raised", "SystemExit", "enough"),
    "recursion": ("raised", "RecursionError", "maximum recursion depth exceeded"),
    "none": ("wrong_type", "WrongType", "run() returned NoneType"),
    "dict": ("wrong_type", "WrongType", "run() returned dict"),
    "hang": ("timed_out", "InvocationTimeout", "run_invocation_timeout = 5 s"),
    "hang_in_c": ("timed_out", "InvocationTimeout", "run_invocation_timeout = 5 s"),
    "deaf": ("timed_out", "InvocationTimeout", "run_invocation_timeout = 5 s"),
    "grandchild": ("timed_out", "InvocationTimeout", "run_invocation_timeout = 5 s"),
    "hog": ("out_of_memory", "OutOfMemory", "process_memory_limit = 300000000"),
}


@pytest.mark.parametrize("how", OUTCOMES)
def test_a_poisoned_mini_batch_costs_no_other(bench, files, how, running_for):
    """It alone fails, with its cause; all others run exactly once, and earlier output is kept."""
    works = bench.works(files)
    arguments = ("--log", str(bench.log), "--how", how, "--poison", "4")
    running_for(seconds_since(lambda: OUTCOMES[how][0] == "timed_out" and "run 4 1" in bench.invocations(), 4))
    slot = bench.slot("poison.py", *arguments, run_invocation_timeout=5.0, process_memory_limit=300_000_000)
    receipts = bench.attempt(slot, works)
    outcome, error_type, words = OUTCOMES[how]
    assert [receipt.mini_batch for receipt in receipts] == list(range(10))
    assert [receipt.outcome for receipt in receipts] == ["succeeded"] * 4 + [outcome] + ["succeeded"] * 5
    assert receipts[4].error_type == error_type
    assert words in receipts[4].error
    assert receipts[4].fingerprint
    assert sorted(bench.invocations()) == [f"run {number} 1" for number in range(10)]
    assert len(bench.rows(receipts)) == 90
    printed = "".join(path.read_text() for path in sorted((bench.run / "logs").glob("*.stdout.txt")))
    assert printed.split("\n")[:-1] == [f"before {number}" for number in range(10)]
    if how == "hang_in_c":
        assert "hang_in_c" in receipts[4].traceback
    if how == "raise":
        assert "1 / 0" in receipts[4].traceback
        assert "prefect_parallel_run" not in receipts[4].traceback


def test_killing_a_child_kills_its_own_children(bench, files):
    """They are in its session."""
    marker = f"prefect-parallel-run-test-{os.getpid()}"
    arguments = ("--log", str(bench.log), "--how", "grandchild", "--poison", "0")
    slot = bench.slot("poison.py", *arguments, run_invocation_timeout=1.0, environment_variables={"MARKER": marker})
    bench.attempt(slot, bench.works(files)[:1])
    slot._standby.stop()  # a standby child is marked like every child
    wait_until(lambda: not list(marked(f"MARKER={marker}".encode())))  # a process that was killed may still be listed


def test_printing_does_not_break_the_protocol(bench, files):
    """Binary data, a line of 10 MB, imitated messages, from Python and from C."""
    receipts = bench.attempt(bench.slot("rubbish.py"), bench.works(files))
    assert [receipt.outcome for receipt in receipts] == ["succeeded"] * 10
    assert bench.rows(receipts) == ["10"] * 10
    assert (bench.run / "logs" / "node-0.0.1.stdout.txt").stat().st_size > 10_000_000


def test_the_script_sees_its_environment(bench, files, tmp_path):
    """Everything that the contract promises."""
    slot = bench.slot("context_facts.py", "--a", "b c", side_inputs={"lookup": "/l"})
    receipts = bench.attempt(slot, bench.works(files), attempt=2)
    facts = [json.loads(line) for line in bench.rows(receipts)[::10]]
    one = facts[3]
    assert one["argv"] == [str(bench.scripts / "context_facts.py"), "--a", "b c"]
    assert one["name"] == "context_facts"
    assert one["file"] == str(bench.scripts / "context_facts.py")
    assert one["cwd"] == one["working_dir"]
    assert one["output_dir"] == one["bi_output"] == str(tmp_path / "out")
    assert one["side_inputs"] == {"lookup": "/l"}
    assert (one["index"], one["dataset"], one["try"], one["retry"]) == (3, "images", 2, 1)
    assert one["task_id"] == "3"
    assert one["same"]
    slot.shut_down()
    assert not os.path.exists(one["working_dir"])
    assert "INFO mini-batch 3" in (bench.run / "logs" / "node-0.0.1.log").read_text()


def test_init_and_shutdown_are_called_once_per_process(bench, files):
    """In the same process as run()."""
    slot = bench.slot("counts.py", "--log", str(bench.log))
    bench.attempt(slot, bench.works(files))
    assert slot.shut_down() == ""
    lines = bench.log.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["init", *["run"] * 10, "shutdown"]
    assert lines[0].split()[1] == lines[-1].split()[1]


@pytest.mark.parametrize(
    ("script", "stage", "words"),
    [
        ("no_run.py", "import", "it lacks a function run(mini_batch)"),
        ("syntax_error.py", "import", "was never closed"),
        ("init_raises.py", "init", "no model at /models/none"),
        ("import_exits.py", "start", "exited with status 7"),
        ("missing.py", "import", "missing.py"),
    ],
)
def test_a_failed_start_is_reported_immediately(bench, script, stage, words):
    """With stage, message and traceback; a first start is not retried."""
    with pytest.raises(SlotUnusableError) as caught:
        bench.slot(script).start()
    failure = caught.value.failure
    assert failure.stage == stage
    assert words in failure.error
    if script == "init_raises.py":
        assert "init_raises.py" in failure.traceback
        assert 'raise RuntimeError("no model at /models/none")' in failure.traceback


def test_arguments_may_exceed_the_pipe_buffer(bench, files):
    """The settings are written while the child reads them."""
    slot = bench.slot("echo.py", "--long", "x" * 5_000_000)
    assert len(bench.rows(bench.attempt(slot, bench.works(files)))) == 100


def test_a_missing_interpreter_is_reported(bench):
    """With its path."""
    with pytest.raises(SlotUnusableError) as caught:
        bench.slot("echo.py", interpreter="/none/python").start()
    assert caught.value.failure.stage == "spawn"
    assert "/none/python" in caught.value.failure.error


def test_a_hanging_init_is_killed(bench, tmp_path, starting_for):
    """After init_timeout, with its stack."""
    script, hangs = tmp_path / "hangs_in_init.py", tmp_path / "hangs"
    script.write_text(
        f"import pathlib, time\ndef init():\n    pathlib.Path({str(hangs)!r}).touch()\n    time.sleep(1000)\n"
        "def run(mini_batch): return []\n"
    )
    starting_for(lambda _: hangs.exists())
    with pytest.raises(SlotUnusableError) as caught:
        bench.slot(str(script)).start()
    assert caught.value.failure.error_type == "InitTimeout"
    assert "in init" in caught.value.failure.traceback


def test_stacks_of_a_process_that_is_slow_to_answer(bench, tmp_path, monkeypatch):
    """They are complete, however long the process waits for a processor; one of its threads blocks all signals."""
    monkeypatch.setattr(child_process, "_STACK_LIMIT", 3600.0)
    script = tmp_path / "deep.py"
    script.write_text(
        "import signal, threading, time\n"
        "blocks = threading.Event()\n"
        "def block():\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n    blocks.set()\n    time.sleep(1000)\n"
        "def deep(levels):\n    if levels:\n        deep(levels - 1)\n    print('deep', flush=True)\n    time.sleep(1000)\n"
        "def init():\n    threading.Thread(target=block, daemon=True).start()\n    blocks.wait()\n    deep(60)\n"
        "def run(mini_batch): return []\n"
    )
    settings = bench.settings(str(script))
    startup = ChildFactory(settings, lambda: dict(os.environ), str(tmp_path), ProcessLog()).start("deep", 0)
    child = startup.child
    try:
        wait_until(lambda: startup.poll(0.05) or any(path.read_text() for path in bench.run.glob("logs/*deep.stdout.txt")))
        os.kill(child.pid, signal.SIGSTOP)
        stacks = begin(child.stacks)
        with pytest.raises(TimeoutError):
            stacks.result(0.3)
        os.kill(child.pid, signal.SIGCONT)
        text = stacks.result(300)
        assert text.count(" in deep\n") == 61
        assert "__main__.py" in text.splitlines()[-1]
        assert "in block" in begin(child.stacks).result(300)  # the blocking thread is not waited for
    finally:
        startup.discard()


def test_a_failing_shutdown_is_reported(bench, files, tmp_path):
    """The rows are committed by then."""
    script = tmp_path / "bad_end.py"
    script.write_text("def run(mini_batch): return mini_batch\ndef shutdown(): raise OSError('no disk')\n")
    slot = bench.slot(str(script))
    assert len(bench.rows(bench.attempt(slot, bench.works(files)))) == 100
    assert "OSError: no disk" in slot.shut_down()


def test_a_process_that_does_not_exit_after_shutdown_is_named(bench, files, tmp_path, monkeypatch):
    """It is killed after a while, whether the script has a shutdown() or not."""
    monkeypatch.setattr("prefect_parallel_run.node.slot._EXIT_GRACE", 0.0)
    script = tmp_path / "stays.py"
    script.write_text(
        "import atexit, threading\ndef run(mini_batch): return mini_batch\natexit.register(threading.Event().wait)\n"
    )
    slot = bench.slot(str(script))
    assert len(bench.rows(bench.attempt(slot, bench.works(files)))) == 100
    assert slot.shut_down() == "its process did not exit after shutdown() and was killed"


def test_no_retry_prevents_further_attempts(bench, files):
    """NoRetry can be imported from prefect_parallel_run in the child."""
    (receipt,) = bench.attempt(bench.slot("no_retry.py", "--log", str(bench.log)), bench.works(files)[:1])
    assert receipt.final
    assert receipt.error == "never"


@pytest.mark.parametrize("seconds", [30, 0])
def test_retry_later_delays_the_next_attempt(bench, files, tmp_path, seconds):
    """Its receipt says for how long; its import does not import Prefect."""
    script = tmp_path / "later.py"
    script.write_text(
        "import sys\nfrom prefect_parallel_run import RetryLater\n"
        f"def run(mini_batch):\n    raise RetryLater({seconds}, f\"busy, {{'prefect' in sys.modules}}\")\n"
    )
    (receipt,) = bench.attempt(bench.slot(str(script)), bench.works(files)[:1])
    assert (receipt.retry_after, receipt.final) == (seconds, False)
    assert (receipt.error_type, receipt.error) == ("RetryLater", "busy, False")


def test_a_generator_is_consumed_inside_the_attempt(bench, files):
    """Its rows count like those of a list."""
    receipts = bench.attempt(bench.slot("generator.py"), bench.works(files))
    assert bench.rows(receipts) == [f"f{number:03d}.txt" for number in range(100)]


def test_fewer_rows_than_items_are_failed_items(bench, files):
    """The mini-batch itself has succeeded."""
    receipts = bench.attempt(bench.slot("short.py"), bench.works(files))
    assert {(r.outcome, r.items, r.succeeded, r.failed, r.rows) for r in receipts} == {("succeeded", 10, 9, 1, 9)}


def test_a_changed_file_fails_the_mini_batch(bench, files):
    """None of its rows is used, and there is no further attempt."""
    works = bench.works(files)
    (files / "f005.txt").write_text("changed")
    first, second = bench.attempt(bench.slot("echo.py"), works[:2])
    assert (first.outcome, first.final) == ("input_changed", True)
    assert "f005.txt" in first.error
    assert second.outcome == "succeeded"


@pytest.mark.parametrize(
    ("layout", "script", "source"),
    [
        ({"pkg/__init__.py": "", "pkg/util.py": "X = 1", "pkg/s.py": "from .util import X"}, "pkg/s.py", ""),
        ({"pkg/util.py": "X = 1", "pkg/s.py": "from .util import X"}, "pkg/s.py", ""),
        ({"pkg/util.py": "X = 1", "pkg/s.py": "from util import X"}, "pkg/s.py", ""),
        ({"util.py": "X = 1", "pkg/s.py": "from util import X"}, "pkg/s.py", ""),
        ({"pkg/__init__.py": "", "pkg/util.py": "X = 1", "pkg/s.py": "from .util import X"}, "pkg/s.py", "pkg"),
        ({"json.py": "import json as j; X = 1 if j.dumps else 0"}, "json.py", ""),
        ({"my-script.py": "X = 1"}, "my-script.py", ""),
        ({"score.v2.py": "X = 1"}, "score.v2.py", ""),
        ({"pkg/__init__.py": "", "pkg/util.py": "X = 1", "pkg/a.b.c.py": "from .util import X"}, "pkg/a.b.c.py", ""),
        ({"score_v2.py": "X = 1", "score.v2.py": "from score_v2 import X"}, "score.v2.py", ""),
        ({"s_2.py": "X = 1", "entry_script_s_2.py": "", "s.2.py": "import entry_script_s_2; from s_2 import X"}, "s.2.py", ""),
        ({"io/s.2.py": "X = 1"}, "io/s.2.py", ""),
        ({"sub-folder/util.py": "X = 1", "sub-folder/s.py": "from util import X"}, "sub-folder/s.py", ""),
        ({"wire.py": "X = 1", "s.py": "from wire import X"}, "s.py", ""),
    ],
)
def test_imports_work_in_every_layout(bench, files, tmp_path, layout, script, source):
    """Relative imports, companions, packages and plain folders, and names that are taken."""
    home = tmp_path / "home"
    for name, text in layout.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        tail = "\ndef run(mini_batch):\n    assert __name__ != '__main__'\n    return [X] * len(mini_batch)\n"
        (home / name).write_text(text + (tail if name == script else ""))
    slot = bench.slot(str(home / script), source=home / source)
    assert bench.rows(bench.attempt(slot, bench.works(files)[:1])) == ["1"] * 10


def test_a_death_while_idle_charges_no_mini_batch(bench, files):
    """The replacement does the work."""
    works = bench.works(files)
    slot = bench.slot("echo.py")
    bench.attempt(slot, works[:1])
    os.kill(slot._child.pid, signal.SIGKILL)
    assert [receipt.outcome for receipt in bench.attempt(slot, works)] == ["succeeded"] * 10


def test_stop_kills_a_busy_child(bench, files):
    """From another thread, immediately; finished mini-batches are still returned."""
    works = bench.works(files)
    arguments = ("--log", str(bench.log), "--how", "deaf", "--poison", "2")
    slot = bench.slot("poison.py", *arguments)
    ended = []

    def work():
        try:
            bench.attempt(slot, works)
        except SlotStoppedError:
            ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: bench.log.exists() and len(bench.invocations()) == 3)
    child = psutil.Process(slot._child.pid)
    slot.stop()
    thread.join(300)
    assert ended == [True]
    assert not child.is_running()


def test_secrets_reach_only_the_child(bench, files, tmp_path):
    """They are in its environment before the script is imported."""
    script = tmp_path / "secret.py"
    script.write_text("import os\nX = os.environ['TOKEN']\ndef run(mini_batch): return [len(X)] * len(mini_batch)\n")
    slot = bench.slot(str(script), environment_variables={"TOKEN": "canary-9"})
    assert bench.rows(bench.attempt(slot, bench.works(files)[:1])) == ["8"] * 10
    assert "canary-9" not in repr(bench.settings("echo.py", environment_variables={"TOKEN": "canary-9"}))


def test_the_reaper_kills_what_a_dead_worker_leaves(tmp_path):
    """Processes with its marker, even if they ignore SIGTERM, their child processes, and the scratch folder."""
    import prefect_parallel_run.node.reaper as module

    marker = f"GUARDED=test-{os.getpid()}"
    scratch = tmp_path / "scratch"
    (scratch / "deep").mkdir(parents=True)
    environment = {**os.environ, "GUARDED": marker.partition("=")[2]}
    deaf = (
        "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(subprocess.Popen(['sleep', '1000'], env={}).pid, flush=True); time.sleep(1000)"
    )
    with (
        subprocess.Popen([sys.executable, module.__file__, marker, str(scratch)], stdin=subprocess.PIPE) as process,
        subprocess.Popen(
            [sys.executable, "-c", deaf], env=environment, start_new_session=True, stdout=subprocess.PIPE
        ) as victim,
    ):
        grandchild = psutil.Process(int(victim.stdout.readline()))
        process.stdin.close()  # as when the worker is killed
        assert victim.wait(300) == -signal.SIGKILL
        assert process.wait(300) == 0
    wait_until(lambda: not lives(grandchild))
    assert not scratch.exists()


def test_the_kernel_kills_a_child_without_its_slot(bench, files):
    """Without a reaper: the end of the slot's process closes the child's lifeline."""
    arguments = ("--log", str(bench.log), "--how", "hang_in_c", "--poison", "0")
    slot = bench.slot("poison.py", *arguments, run_invocation_timeout=1000.0)
    receipts = []
    thread = threading.Thread(target=lambda: receipts.extend(bench.attempt(slot, bench.works(files)[:2])))
    thread.start()
    wait_until(lambda: bench.log.exists() and bench.invocations())
    ends = slot._child._pipes
    (lifeline,) = ends._open - {ends.inbox, ends.outbox, ends.bell, ends.interrupt, ends.status, ends.stacks}
    ends._open.remove(lifeline)
    os.close(lifeline)
    thread.join(300)
    assert [(receipt.outcome, receipt.error_type) for receipt in receipts] == [("died", "SIGKILL"), ("succeeded", "")]


@pytest.mark.parametrize("kills", [1, 3])
def test_a_killed_reaper_is_replaced(tmp_path, kills):
    """The replacement does its work, and the callback reports it."""
    scratch, told = tmp_path / "scratch", []
    scratch.mkdir()
    marker = f"GUARDED=test-{os.getpid()}-{kills}"
    guard = Guard(marker, str(scratch), told.append)
    for number in range(1, kills + 1):
        guard._reaper.kill()
        wait_until(lambda number=number: len(told) == number)
    environment = {**os.environ, "GUARDED": marker.partition("=")[2]}
    with subprocess.Popen(["sleep", "1000"], env=environment, start_new_session=True) as victim:
        guard.close()
        assert victim.wait(300) == -signal.SIGKILL
    assert told == [-signal.SIGKILL] * kills
    assert not scratch.exists()
    assert not guard._thread.is_alive()


def test_work_of_a_reaper_killed_meanwhile_is_completed(tmp_path):
    """By the process that closes the guard."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    marker = f"GUARDED=test-{os.getpid()}-late"
    guard = Guard(marker, str(scratch))
    environment = {**os.environ, "GUARDED": marker.partition("=")[2]}
    with subprocess.Popen(["sleep", "1000"], env=environment, start_new_session=True) as victim:
        os.kill(guard._reaper.pid, signal.SIGSTOP)
        closing = threading.Thread(target=guard.close)
        closing.start()
        wait_until(guard._is_closed.is_set)
        guard._reaper.kill()
        closing.join(300)
        assert victim.wait(300) == -signal.SIGKILL
    assert not scratch.exists()


@pytest.mark.parametrize(
    ("script", "function"), [("context_facts.py", ""), ("from_functions.py", "tells"), ("async_steps.py", "step")]
)
@pytest.mark.parametrize("version", ["3.9", "3.10", "3.12", "3.13"])
def test_the_child_runs_without_the_package_installed(bench, files, version, script, function):
    """Every Python from 3.9 on that this machine has runs it, without this package and Prefect."""
    places = [Path(folder, f"python{version}") for folder in os.get_exec_path()]
    places += Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")
    working = (str(place) for place in places if place.exists() and _answers(place))
    interpreter = next(working, None)
    if interpreter is None:
        pytest.skip(f"no Python {version} on this machine")
    slot = bench.slot(script, function=function, interpreter=interpreter)
    receipts = bench.attempt(slot, bench.works(files))
    assert slot.shut_down() == ""
    assert {receipt.outcome for receipt in receipts} == {"succeeded"}


def test_a_child_runs_a_step_from_functions(bench, files):
    """Imported as a module; the decorator alone does not import Prefect."""
    slot = bench.slot("from_functions.py", function="tells")
    receipts = bench.attempt(slot, bench.works(files)[:2])
    assert bench.rows(receipts) == ["begin 0 from_functions False"] * 10 + ["begin 1 from_functions False"] * 10
    assert slot.shut_down() == ""
    assert (bench.run / "logs" / "node-0.0.1.stdout.txt").read_text() == "begin end\n"


@pytest.fixture(scope="module")
def bare_interpreter(tmp_path_factory):
    """An environment in which nothing is installed."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python")


def test_a_step_from_functions_runs_without_the_package_installed(bench, files, bare_interpreter):
    slot = bench.slot("from_functions.py", function="tells", interpreter=bare_interpreter)
    assert bench.rows(bench.attempt(slot, bench.works(files)[:1])) == ["begin 0 from_functions False"] * 10


def test_an_environment_without_the_package_is_named(bench, bare_interpreter, tmp_path):
    """Together with what the script can import there."""
    (tmp_path / "nightly.py").write_text("from prefect_parallel_run import FileDataset, parallel_run\n")
    with pytest.raises(SlotUnusableError) as caught:
        bench.slot(str(tmp_path / "nightly.py"), function="score", interpreter=bare_interpreter).start()
    error = caught.value.failure.error
    assert f"cannot import FileDataset from prefect_parallel_run, which is not installed for {bare_interpreter}" in error
    assert "there, EntryScript, NoRetry, RetryLater, parallel_run can be imported; install prefect_parallel_run" in error


def test_a_step_whose_name_is_gone_cannot_start(bench):
    with pytest.raises(SlotUnusableError) as caught:
        bench.slot("from_functions.py", function="gone").start()
    assert (caught.value.failure.stage, caught.value.failure.error_type) == ("import", "NotAnEntryScript")
    assert "it lacks gone, the entry_function" in caught.value.failure.error


def _answers(interpreter):
    return subprocess.run([interpreter, "-c", ""], capture_output=True, check=False).returncode == 0


def test_the_child_imports_only_its_own_folder():
    """Neither the package's __init__ nor other folders; the standard library only."""
    folder = Path(__file__).parents[2] / "prefect_parallel_run" / "child"
    code = (
        "import sys, runpy\n"
        f"sys.path.insert(0, {str(folder)!r})\n"
        f"namespace = runpy.run_path({str(folder / '__main__.py')!r})\n"
        "namespace['_adopt']()\n"
        "from prefect_parallel_run.child.main_loop import main\n"
        "facts = {'loaded': list(sys.modules)}\n"
    )
    loaded = facts_of(code)["loaded"]
    assert not [name for name in loaded if name.startswith("prefect") and not name.startswith("prefect_parallel_run.child")]
    assert not {"pandas", "numpy", "pyarrow", "dask", "distributed", "asyncio"}.intersection(loaded)
