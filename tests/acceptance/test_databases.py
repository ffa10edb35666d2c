"""Steps over the rows of a query: one result, one query per run, and a password that is written nowhere."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from prefect import flow
from prefect.blocks.system import Secret

from prefect_parallel_run import InputError, ParallelRunConfig, ParallelRunStep, TabularDataset
from prefect_parallel_run.cli.app import main
from prefect_parallel_run.compute.local import LocalTarget
from prefect_parallel_run.flows import parallel_run

from ..postgresql import PASSWORD
from .conftest import ours, prefect_wrote, read, wait_until
from .faults.conftest import ledger
from .test_readme import ROOT, run

GUIDE = (ROOT / "docs" / "guides" / "databases.md").read_text()
SCRIPT = """\
import os, sys, time
GATE = sys.argv[sys.argv.index("--gate") + 1]
def run(mini_batch, context):
    with open(GATE + ".log", "a") as log:
        log.write(f"{context.minibatch_index}\\n")
    while context.minibatch_index >= 3 and not os.path.exists(GATE):
        time.sleep(0.01)
    return list(mini_batch["n"])
"""


class Shop:
    """A table with the numbers 0 to 999, a script that returns them, and a gate before the third mini-batch."""

    def __init__(self, folder):
        self.folder, self.gate, self.output = folder, folder / "gate", folder / "out"
        self.database, self.size = folder / "shop.db", 800
        (folder / "numbers.py").write_text(SCRIPT)
        self.run_sql("CREATE TABLE t (n INTEGER)", "INSERT INTO t SELECT value FROM json_each('" + str([*range(1000)]) + "')")
        self.query, self.uri = "SELECT n FROM t ORDER BY n", f"sqlite:///{self.database}"

    def run_sql(self, *statements):
        with closing(sqlite3.connect(self.database)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    def fields(self, **fields):
        return {
            "entry_script": str(self.folder / "numbers.py"),
            "error_threshold": 0,
            "output_action": "append_row",
            "mini_batch_size": self.size,
            "process_count_per_node": 1,
            **fields,
        }

    def step(self, *, query=None, uri=None, **fields):
        dataset = TabularDataset.from_sql_query(query or self.query, uri or self.uri)
        arguments = ["--gate", str(self.gate)]
        return ParallelRunStep("numbers", ParallelRunConfig(**self.fields(**fields)), dataset, self.output, arguments=arguments)

    def command(self, query=None, uri=None):
        """The arguments of the command line for the same step."""
        config = self.folder / "numbers.yml"
        lines = [f"  {name}: {value}\n" for name, value in self.fields().items()]
        config.write_text("".join(["parallel_run_config:\n", *lines]))
        options = ["--format", "sql", "--input", query or self.query, "--uri", uri or self.uri, "--output", self.output]
        return [*map(str, ["run", config, *options]), "--", "--gate", str(self.gate)]

    def start(self, **options):
        """Start the command line in a process."""
        from prefect.settings import PREFECT_API_URL

        environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "prefect_parallel_run.cli", *self.command(**options)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def calls(self):
        log = Path(f"{self.gate}.log")
        return Counter(map(int, log.read_text().split())) if log.exists() else Counter()

    def kill(self, process):
        process.kill()
        process.wait()
        wait_until(lambda: not ours())

    @property
    def runs(self):
        return sorted(path.parent for path in (self.output / "_parallel_run").glob("*/run.json"))

    @property
    def rows(self):
        return [int(line) for line in (self.output / "parallel_run_step.txt").read_text().split()]


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


@pytest.fixture
def interrupted(shop):
    """A run whose flow process was killed in its third mini-batch; then the table changed."""
    process = shop.start()
    wait_until(lambda: shop.calls()[3])
    shop.kill(process)
    shop.run_sql("UPDATE t SET n = -n")
    shop.gate.touch()
    return shop


def test_the_example_of_the_guide(tmp_path):
    """As it is printed, with the result that is printed."""
    script, table, example = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)[:3]
    for name, text in (("score.py", script), ("create.py", table), ("flow.py", example)):
        (tmp_path / name).write_text(text)
    for name in ("create.py", "flow.py"):
        ended = run(name, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / "scores.csv").read_text() == re.search(r"```text\n(.*?)```", GUIDE, re.DOTALL)[1]


def test_a_finished_run_is_not_reused(shop):
    """Nothing shows whether the data has changed."""
    shop.gate.touch()
    first = shop.step()()
    assert (shop.rows, first.rows) == ([*range(1000)], 1000)
    assert len(shop.calls()) > 3
    shop.run_sql("DELETE FROM t WHERE n >= 10")
    second = shop.step()()
    assert not second.reused
    assert shop.rows == [*range(10)]
    assert shop.step()().run_id not in {first.run_id, second.run_id}


def test_a_killed_step_resumes_with_the_rows_of_its_query(interrupted):
    """Although the table has changed; completed mini-batches do not run again."""
    done = ledger(interrupted.runs[0], "SELECT mini_batch FROM mini_batches WHERE state = 'succeeded'")
    result = interrupted.step()()
    assert interrupted.rows == [*range(1000)]
    assert [str(path) for path in interrupted.runs] == [result.run_directory]
    assert [interrupted.calls()[number] for (number,) in done] == [1] * len(done)
    assert main(["verify", result.run_directory]) == 0
    interrupted.step()()
    assert interrupted.rows == sorted(-number for number in range(1000))


def test_resume_needs_no_database(interrupted):
    """Not even its file."""
    interrupted.database.unlink()
    (directory,) = interrupted.runs
    assert main(["resume", str(directory)]) == 0
    assert interrupted.rows == [*range(1000)]


def test_rows_that_were_deleted_are_not_replaced_silently(interrupted, capsys):
    """The step starts a new run; resume says what is missing."""
    (directory,) = interrupted.runs
    (directory / "inputs" / "input_0.parquet").unlink()
    assert main(["resume", str(directory)]) == 1
    assert f"input file {directory}/inputs/input_0.parquet no longer exists" in " ".join(capsys.readouterr().err.split())
    result = interrupted.step()()
    assert result.run_directory != str(directory)
    assert interrupted.rows == sorted(-number for number in range(1000))


def test_another_query_starts_another_run(interrupted):
    """Or the same one in another database."""
    interrupted.step(query="SELECT n FROM t WHERE n > -5 ORDER BY n")()
    assert interrupted.rows == [-4, -3, -2, -1, 0]
    assert len(interrupted.runs) == 2


def test_prefect_retries_with_the_rows_of_the_first_attempt(shop, monkeypatch):
    """The query does not run again."""
    monkeypatch.setattr("prefect_parallel_run.compute.local._RESTARTS", 0)
    patience, open_target = "prefect_parallel_run.dispatch.state._NODE_PATIENCE", LocalTarget.open

    def open_patiently(*arguments):
        monkeypatch.setattr(patience, 300.0)
        return open_target(*arguments)

    monkeypatch.setattr(LocalTarget, "open", open_patiently)

    def lose_workers():
        wait_until(lambda: shop.calls()[3])
        shop.run_sql("DELETE FROM t")
        for process in ours("compute/worker.py"):
            process.kill()
        monkeypatch.setattr(patience, 0.0)
        shop.gate.touch()

    thread = threading.Thread(target=lose_workers)
    thread.start()
    result = shop.step()()
    thread.join()
    assert shop.rows == [*range(1000)]
    assert ledger(result.run_directory, "SELECT value FROM run WHERE key = 'drives'") == [("2",)]


def test_a_form_and_a_plan_take_a_query(shop, capsys):
    """In words of their own."""
    shop.gate.touch()
    kinds = {
        "sql_query": "SELECT n, 1 AS m FROM t ORDER BY n LIMIT 5",
        "uri": shop.uri,
        "keep_columns": ["n"],
        "name": "numbers",
    }
    arguments = ["--gate", str(shop.gate)]
    parallel_run(name="form", inputs=[kinds], output=str(shop.output), arguments=arguments, config=shop.fields())
    assert shop.rows == [0, 1, 2, 3, 4]
    command = shop.command()
    assert main(["plan", *command[1:]]) == 0
    assert "(query)/input_0.parquet" in capsys.readouterr().out
    assert main([*command[:2], *[word for word in command[2:] if word not in {"--uri", shop.uri}]]) == 2
    assert "--uri: uri is missing" in capsys.readouterr().err


def test_a_trial_reads_a_query(shop, capfd, tmp_path, monkeypatch):
    """Into its temporary folder, which is deleted."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    trial = shop.step().try_out(2)
    rows = [int(row) for row in trial.rows]
    assert rows == [*range(len(rows))]
    assert (trial.figures.items, trial.failures) == (1000, ())
    assert not shop.output.exists()
    assert main(["try", *shop.command()[1:]]) == 0
    assert "1,000 items" in capfd.readouterr().out
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("command", ["plan", "try"])
def test_a_cancelled_plan_or_trial_leaves_no_rows(command, stop, shop):
    """Although the query would run for days."""
    endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r"
    temporary = shop.folder / "temporary"
    temporary.mkdir()
    program = [sys.executable, "-m", "prefect_parallel_run.cli", command, *shop.command(query=endless)[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    with subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: any(path.stat().st_size for path in temporary.rglob("inputs/*")))
            process.send_signal(stop)
            assert process.wait(300) == 130
        finally:
            process.kill()
        assert process.stderr.read().strip() == "cancelled"
    assert not list(temporary.iterdir())


@pytest.fixture
def password():
    """In a block of Prefect's."""
    Secret(value=PASSWORD).save("database-password", overwrite=True)
    return PASSWORD


def test_a_password_is_found_nowhere(shop, postgresql, password, caplog):
    """Not in the run directory, logs, Prefect's database, the step's text or an error: every byte written is searched."""
    shop.gate.touch()
    query = "SELECT n FROM generate_series(0, 999) AS n"
    step = shop.step(query=query, uri=postgresql.uri)
    refused = shop.step(query=query, uri=postgresql.uri.replace("tester", "stranger"))

    @flow
    def planted():
        return step()

    @flow
    def failing():
        return refused()

    planted()
    assert shop.rows == [*range(1000)]
    with pytest.raises(InputError, match="authentication failed for user"):
        failing()
    assert len(list((shop.output / "_parallel_run").iterdir())) == 1  # the failed query leaves no run
    shown = [f"{step!r} {step.fn.__signature__}", caplog.text]
    written = [*map(read, shop.output.rglob("*")), *map(str.encode, shown)]
    wait_until(lambda: prefect_wrote(b"authentication failed for user"))
    encoded = postgresql.whole_uri.split(":")[2].partition("@")[0]
    for form in (PASSWORD, encoded, json.dumps(PASSWORD)[1:-1], "planted p@ss"):
        assert not [text for text in written if form.encode() in text]
        assert not prefect_wrote(form.encode())
    assert any(postgresql.origin.encode() in text for text in written)


def test_a_whole_uri_may_be_secret(shop, postgresql):
    """Then no part of it is written."""
    shop.gate.touch()
    Secret(value=postgresql.whole_uri).save("database-uri", overwrite=True)
    result = shop.step(query="SELECT 7 AS n", uri="{{ prefect.blocks.secret.database-uri }}")()
    assert shop.rows == [7]
    assert not [path for path in Path(result.run_directory).rglob("*") if b"tester" in read(path)]


def test_a_missing_block_is_named(shop):
    with pytest.raises(ValueError, match=r"uri: not found in Prefect: .*no-such-block.*; check the name with .*, or create"):
        shop.step(uri="postgresql://me:{{ prefect.blocks.secret.no-such-block }}@127.0.0.1/shop")()


@pytest.mark.parametrize("how", ["step", "resume"])
def test_killed_while_the_query_runs_it_runs_again(how, shop, postgresql, password):
    """In the same run; a part of the rows never counts as all."""
    postgresql.run(
        "DROP TABLE IF EXISTS numbers",
        "CREATE TABLE numbers AS SELECT n, 0 AS pause FROM generate_series(0, 29999) AS n",
        "UPDATE numbers SET pause = 3600 WHERE n = 29999",
    )
    shop.size = "100KB"
    query = "SELECT n, repeat('x', 1000) AS x, pg_sleep(pause)::text AS s FROM numbers ORDER BY n"
    process = shop.start(query=query, uri=postgresql.uri)
    running = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    wait_until(lambda: postgresql.run(running) == [(1,)])
    (directory,) = shop.runs
    wait_until(lambda: [path.name for path in (directory / "inputs").iterdir()] == [".input_0.parquet.tmp"])
    shop.kill(process)
    stop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    postgresql.run("UPDATE numbers SET pause = 0, n = n + 1", stop)
    shop.gate.touch()
    if how == "step":
        assert shop.step(query=query, uri=postgresql.uri)().run_directory == str(directory)
    else:
        assert main(["resume", str(directory)]) == 0
    assert shop.rows == [*range(1, 30_001)]
    assert [path.name for path in (directory / "inputs").iterdir()] == ["input_0.parquet"]
