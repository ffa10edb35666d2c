"""The end of a run: no slot waits while another has more than it can do."""

import json
import sqlite3
from pathlib import Path

import pytest


def ledger_of(result):
    return sqlite3.connect(Path(result.run_directory, "ledger.sqlite"))


def test_nothing_waits_behind_a_mini_batch_that_takes_long(workshop):
    """The others of its lease are run elsewhere meanwhile; it goes on, and everything runs once."""
    opened = workshop.folder / "open"
    gate = ("--log", str(workshop.log), "--gate", "3", "--open", str(opened))

    class Opener:
        """Opens the gate once all others have been run."""

        def __call__(self):
            if len(workshop.invocations()) == 100:
                opened.touch()

    result = run_with(workshop, "gated.py", gate, Opener(), mini_batch_size=1)
    assert workshop.invocations() == [(number, 1) for number in range(100)]
    assert result.rows == 100


def run_with(workshop, script, arguments, watcher, **fields):
    """Run a step while *watcher* is called again and again."""
    import threading

    over = threading.Event()

    def watch():
        while not over.wait(0.02):
            watcher()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        return workshop.step(script, *arguments, node_count=2, process_count_per_node=1, **fields)()
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("row_format", ["text", "jsonl"])
def test_of_a_mini_batch_that_runs_on_two_nodes_the_rows_count_once(workshop, row_format):
    """A node that is slow without end is overtaken: its last mini-batch is run on the other, and the run ends."""
    claim = str(workshop.folder / "claim")
    arguments = ("--log", str(workshop.log), "--claim", claim, "--fast", "0.01", "--slow", "1000")
    step = workshop.step(
        "slow_node.py",
        *arguments,
        node_count=2,
        process_count_per_node=1,
        mini_batch_size=5,
        run_invocation_timeout=2000,
        speculative_execution=True,
        append_row_format=row_format,
        error_threshold=0,
    )
    result = step()
    assert (result.mini_batches_succeeded, result.rows) == (20, 100)
    lines = Path(result.output_file).read_text().splitlines()
    assert [json.loads(line)["value"] if row_format == "jsonl" else line for line in lines] == sorted(
        path.name for path in workshop.files.iterdir()
    )
    again = [number for number, _ in workshop.invocations()]
    assert len(again) - len(set(again)) == 1  # one mini-batch was begun twice
    with ledger_of(result) as ledger:
        assert ledger.execute("SELECT COUNT(*), MAX(attempt) FROM attempts").fetchone() == (20, 1)
    ledger.close()


def test_a_slow_mini_batch_that_fails_everywhere_fails_run_max_try_times(workshop):
    """A second run of a try is no second try."""
    arguments = ("--how", "hang", "--poison", "0")
    step = workshop.step(
        "poison.py",
        *arguments,
        node_count=2,
        process_count_per_node=1,
        run_invocation_timeout=5,
        run_max_try=2,
        speculative_execution=True,
        mini_batch_size=10,
    )
    result = step()
    assert (result.mini_batches_succeeded, result.mini_batches_failed) == (9, 1)
    with ledger_of(result) as ledger:
        tried = ledger.execute("SELECT attempt, outcome FROM attempts WHERE mini_batch = 0 ORDER BY attempt").fetchall()
    ledger.close()
    assert tried == [(1, "timed_out"), (2, "timed_out")]
    invocations = [attempt for number, attempt in workshop.invocations() if number == 0]
    assert 2 <= len(invocations) <= 4
    assert set(invocations) == {1, 2}
