"""Steps over Delta tables: one version per run, in flows, on the command line and in a store."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from prefect_parallel_run import InputError, TabularDataset
from prefect_parallel_run.cli import main

from .conftest import ours, wait_until
from .stores.conftest import s3, s3_server  # noqa: F401  fixtures
from .test_readme import ROOT, run

GUIDE = (ROOT / "docs" / "guides" / "delta.md").read_text()


def test_the_example_of_the_guide(tmp_path):
    """As it is printed."""
    script, flow = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "price.py").write_text(script)
    (tmp_path / "flow.py").write_text(flow)
    ended = run("flow.py", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "input_0: reading version 1 of the table" in ended.stderr
    lines = (tmp_path / "out" / "totals.csv").read_text().splitlines()
    assert lines[0] == "price,count,total"
    assert sorted(lines[1:]) == ["0.5,3,1.5", "2.5,4,10.0"]


@pytest.fixture
def table(tmp_path):
    """Four files, one per partition."""
    path = str(tmp_path / "table")
    write_deltalake(path, pa.table({"n": range(8), "k": [f"{number // 2} %" for number in range(8)]}), partition_by=["k"])
    return path


def replace_rows(path):
    """Two further commits: all files of the first version are removed from the table, but still exist."""
    DeltaTable(path).delete()
    write_deltalake(path, pa.table({"n": [100], "k": ["new"]}), mode="append")


ROWS = [f'{number} "{number // 2} %"' for number in range(8)]


def step(workshop, table, gate=-1, **fields):
    options = {"inputs": TabularDataset.from_delta_table(table), "error_threshold": 0, "process_count_per_node": 1, **fields}
    return workshop.step(
        "gated_rows.py", "--log", str(workshop.log), "--gate", str(gate), "--open", str(workshop.folder / "open"), **options
    )


def receipt_of(result):
    return json.loads(Path(result.receipt).read_text())


def lines_of(result):
    return Path(result.output_file).read_text().splitlines()


def test_a_new_commit_runs_again_and_no_commit_reuses(workshop, table, caplog):
    """The earlier result stays that of its version."""
    first = step(workshop, table)()
    assert (lines_of(first), receipt_of(first)["table_versions"]) == (ROWS, {"input_0": 0})
    assert "input_0: reading version 0 of the table" in caplog.text
    assert step(workshop, table)().reused
    replace_rows(table)
    again = step(workshop, table)()
    assert (lines_of(again), receipt_of(again)["table_versions"], again.reused) == (["100 new"], {"input_0": 2}, False)
    old = step(workshop, table, inputs=TabularDataset.from_delta_table(table, 0), output=workshop.folder / "old")()
    assert lines_of(old) == ROWS


def test_a_killed_run_is_resumed_at_its_version(workshop, table, capsys):
    """Commits after the plan change nothing, in the rest of the run and in its report."""
    from prefect.settings import PREFECT_API_URL

    config = workshop.folder / "c.yml"
    workshop.config("gated_rows.py", error_threshold=0, process_count_per_node=1).save_to_yaml(config)
    options = ["--input", table, "--format", "delta", "--output", str(workshop.output)]
    script = ["--", "--log", str(workshop.log), "--gate", "2", "--open", str(workshop.folder / "open")]
    command = [sys.executable, "-m", "prefect_parallel_run.cli", "run", str(config), *options, *script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": PREFECT_API_URL.value()}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: process.poll() is not None or (2, 1) in workshop.invocations(), 300)
            assert process.poll() is None, process.stderr.read()
            replace_rows(table)
        finally:
            process.kill()
            process.communicate()
    wait_until(lambda: not ours())
    (workshop.folder / "open").touch()
    (directory,) = (path.parent for path in (workshop.output / "_parallel_run").glob("*/run.json"))
    assert main(["resume", str(directory)]) == 0
    assert (workshop.output / "parallel_run_step.txt").read_text().splitlines() == ROWS
    assert json.loads((directory / "receipt.json").read_text())["table_versions"] == {"input_0": 0}
    assert main(["verify", str(directory)]) == 0
    capsys.readouterr()
    assert main(["plan", str(directory)]) == 0
    assert "note: input_0: version 0 of the table" in capsys.readouterr().out
    assert main(["plan", str(config), *options, *script]) == 0
    assert "note: input_0: version 2 of the table" in capsys.readouterr().out
    assert main(["plan", "--json", str(config), *options, "--table-version", "0", *script]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == 8


class Vacuum(threading.Thread):
    """Replaces and vacuums the table once the gate holds the run, and opens the gate."""

    def __init__(self, workshop, table, gate):
        super().__init__()
        self.workshop, self.table, self.gate = workshop, table, gate

    def run(self):
        try:
            wait_until(lambda: (0, 1) in self.workshop.invocations(), 300)
            replace_rows(self.table)
            DeltaTable(self.table).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
        finally:
            self.gate.touch()


def test_a_vacuum_during_a_run_fails_the_mini_batches_of_deleted_files(workshop, table):
    """With the file as the reason; the rows of the others are published."""
    open_gate = workshop.folder / "open"
    held = step(workshop, table, gate=0, error_threshold=-1, run_max_try=1, mini_batch_size="1MB")
    vacuum = Vacuum(workshop, table, open_gate)
    vacuum.start()
    result = held()
    vacuum.join()
    assert lines_of(result) == ROWS[:2]
    failed = [json.loads(line) for line in Path(result.run_directory, "failed_items.jsonl").read_text().splitlines()]
    assert len(failed) == 3
    assert all(line["error"].endswith(".parquet has been removed since the run was planned") for line in failed), failed


def test_a_table_in_a_store(workshop, table, s3):  # noqa: F811  a fixture
    """Credentials and endpoint come from the environment, for the log as for the files."""
    bucket = "bucket"
    s3.put(table, f"{bucket}/tables/t", recursive=True)
    url = f"s3://{bucket}/tables/t"
    first = step(workshop, url)()
    assert (lines_of(first), receipt_of(first)["table_versions"]) == (ROWS, {"input_0": 0})
    assert step(workshop, url)().reused
    replace_rows(table)
    s3.put(f"{table}/", f"{bucket}/tables/t/", recursive=True)
    assert lines_of(step(workshop, url)()) == ["100 new"]
    for name in s3.find(f"{bucket}/tables/t/k=1%20%25"):
        s3.rm(name)
    with pytest.raises(InputError, match=r"s3://bucket/tables/t/k=1%20%25/.*is a file of version 0 of the Delta table, but"):
        step(workshop, url, inputs=TabularDataset.from_delta_table(url, 0))()
