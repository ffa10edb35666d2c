"""Whatever happens to the flow process, the next start goes on from the ledger and publishes the same bytes."""

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from prefect_parallel_run import LimitExceededError
from prefect_parallel_run.cli import main

from ..conftest import ours, wait_until
from .conftest import IN_FULL, ledger, report

EXPECTED = "".join(f"f{number:03d}.txt\n" for number in range(100)).encode()
IN_FLIGHT = 2 * 2 + 2 * 40  # two slots with two leases each; a lease of 20 ms mini-batches has some 25 at most


def check_finished(driver, workshop, kills):
    """The result is right, and nothing that was committed ran again."""
    assert driver.result.read_bytes() == EXPECTED
    run = driver.runs[-1]
    assert ledger(run, "SELECT COUNT(*), SUM(state='succeeded') FROM mini_batches") == [(50, 50)]
    counts = Counter(index for index, _ in workshop.invocations())
    assert set(counts) == set(range(50))
    assert sum(counts.values()) <= 50 + kills * IN_FLIGHT
    assert max(counts.values()) <= 1 + kills, "README: a try, and once more for every time that the flow process was killed"
    tries = ledger(run, "SELECT mini_batch, attempt FROM attempts ORDER BY mini_batch, attempt")
    rows = (run / "logs" / "processed_mini-batches.csv").read_text().splitlines()[1:]
    assert sorted(tuple(map(int, row.split(",")[:2])) for row in rows) == tries
    assert main(["verify", str(run)]) == 0


def test_killed_at_every_write_boundary(driver, workshop):
    """Before every fsync, rename and commit in turn; in CI before every fifth. In full with FAULTS_IN_FULL=1."""
    _, said = driver.run()
    boundaries = said["boundaries"]
    assert boundaries > 15
    clean = driver.result.read_bytes()
    assert clean == EXPECTED
    for boundary in range(1, boundaries + 1, 1 if IN_FULL else 5):
        driver.output = workshop.folder / f"driven{boundary}"
        workshop.log.unlink()
        status, _ = driver.run(boundary)
        assert status in (-signal.SIGKILL, 0)  # the number of commits depends on how leases came home
        committed = {}
        if driver.runs:
            rows = ledger(driver.runs[0], "SELECT mini_batch FROM mini_batches WHERE state='succeeded'")
            before = Counter(index for index, _ in workshop.invocations())
            committed = {row[0]: before[row[0]] for row in rows}
        wait_until(lambda: not ours())
        began = time.monotonic()
        status, _ = driver.run()
        assert status == 0
        check_finished(driver, workshop, 1)
        report("write boundary", extra=len(workshop.invocations()) - 50, seconds=time.monotonic() - began)
        after = Counter(index for index, _ in workshop.invocations())
        assert {index: after[index] for index in committed} == committed, "a committed mini-batch ran again"


def test_killed_at_random_moments_again_and_again(driver, workshop):
    """Until it gets through; in CI a few rounds, twenty in full."""
    chance = random.Random(7)
    for round_ in range(20 if IN_FULL else 2):
        driver.output = workshop.folder / f"round{round_}"
        workshop.log.unlink(missing_ok=True)
        kills = 0
        while kills < 5:
            with driver.start() as process:
                target = len(workshop.invocations()) + chance.randrange(1, 40)
                while process.poll() is None and len(workshop.invocations()) < target:
                    time.sleep(0.005)
                process.kill()
                process.communicate()
            kills += 1
            wait_until(lambda: not ours())
        began = time.monotonic()
        assert driver.run()[0] == 0
        check_finished(driver, workshop, kills)
        extra = (len(workshop.invocations()) - 50) / kills
        report("kill -9 at a random moment, five times in a row", extra=extra, seconds=time.monotonic() - began)


def test_children_and_workers_are_killed_throughout(driver, workshop, monkeypatch):
    """Seeded; nothing is lost or doubled, and no mini-batch is tried more often than allowed."""
    chance = random.Random(3)
    # Some work between two kills: the run ends, rightly, when no node has a process that starts.
    doors = range(5, 50, 5)
    monkeypatch.setenv("DRIVER_ARGUMENTS", f"--doors {','.join(map(str, doors))}")
    with driver.start(seconds=0.1, node_count=2, run_max_try=20) as process:
        for door in doors:
            wait_until(lambda door=door: len(workshop.invocations()) > door or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            kill_one(chance)
            workshop.open_door(door)
        _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert driver.result.read_bytes() == EXPECTED
    assert main(["verify", str(driver.runs[0])]) == 0
    doubled = "SELECT mini_batch FROM attempts WHERE outcome='succeeded' GROUP BY mini_batch HAVING COUNT(*) <> 1"
    assert ledger(driver.runs[0], doubled) == []


def kill_one(chance):
    """Kill a child or, less often, a worker."""

    def is_killed():
        with contextlib.suppress(IndexError, psutil.NoSuchProcess):  # none exists at the moment, or it has just ended
            chance.choice(ours("child/__main__.py") * 4 + ours("compute/worker.py")).kill()
            return True
        return False

    wait_until(is_killed)


def test_no_orphan_survives_a_killed_flow_process(driver, workshop):
    """Children, also those busy in C code and deaf to SIGTERM, their own children, workers and guardians."""
    with driver.start(seconds=1000) as process:
        wait_until(lambda: len(workshop.invocations()) >= 2)
        assert len(ours()) >= 4
        process.kill()
        process.communicate()
    wait_until(lambda: not ours())


def guardians():
    return ours("prefect_parallel_run/node/reaper.py")


def test_a_killed_guardian_is_replaced_and_the_run_resumes_right(driver, workshop):
    """Whoever kills it, and the flow process afterwards: no child lives on, and nothing is lost or doubled."""
    with driver.start(seconds=0.1) as process:
        wait_until(lambda: len(workshop.invocations()) >= 4)
        (before,) = guardians()
        before.kill()
        wait_until(lambda: [one.pid for one in guardians() if one.pid != before.pid])
        done = len(workshop.invocations())
        wait_until(lambda: len(workshop.invocations()) > done)
        (log,) = (driver.runs[0] / "logs").glob("*processes.jsonl")
        wait_until(lambda: "guardian_replaced" in log.read_text())  # written a moment after it happened
        process.kill()
        process.communicate()
    wait_until(lambda: not ours())
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["exit"] for event in events if event["event"] == "guardian_replaced"] == [-signal.SIGKILL]
    assert driver.run(seconds=0.1)[0] == 0
    check_finished(driver, workshop, 1)


@pytest.mark.parametrize("freezes", [True, False])
def test_no_child_survives_its_guardian_worker_and_flow_process(driver, workshop, freezes, monkeypatch):
    """All killed, in that order, while the children are busy: a worker that is frozen cannot replace the guardian."""
    temporary = workshop.folder / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))  # a guardian that is gone removes nothing
    with driver.start(seconds=1000) as process:
        wait_until(lambda: len(workshop.invocations()) >= 2)
        workers = ours("compute/worker.py")
        for worker in workers if freezes else ():
            worker.suspend()
        for guardian in guardians():
            guardian.kill()
        process.kill()
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        process.communicate()
    wait_until(lambda: not ours())


def aborted(workshop, **fields):
    """A run that a limit ended; its directory."""
    step = workshop.step("poison.py", "--how", "raise", "--poison", "3", run_max_try=2, error_threshold=9, **fields)
    with pytest.raises(LimitExceededError) as caught:
        step()
    return caught.value.run_directory


def test_after_a_limit_resume_with_a_higher_one_goes_on(workshop, capsys):
    """What is finished is not run again, the tries already used stay used, and the receipt is right."""
    run = aborted(workshop)
    assert main(["show", run]) == 0
    assert "failed (error_threshold exceeded: 10 failed items, 9 allowed" in capsys.readouterr().out
    before = Counter(workshop.invocations())
    assert main(["resume", run]) == 1  # the same limit
    assert "LimitExceededError: error_threshold exceeded" in capsys.readouterr().err
    assert main(["resume", run, "--error-threshold", "10"]) == 0
    after = Counter(workshop.invocations())
    assert {key: count for key, count in after.items() if key in before} == before
    assert after == Counter([(number, 1) for number in range(10)] + [(3, 2)])
    assert main(["verify", run]) == 0
    assert json.loads(Path(run, "receipt.json").read_text())["items"]["failed"] == 10
    assert main(["resume", run, "--error-threshold", "10"]) == 0  # finished: the result is returned
    assert main(["resume", run]) == 0  # the limit it was given stays with the run
    assert main(["resume", run, "--error-threshold", "9"]) == 1  # it does not forgive it; the result and its receipt stay
    assert "error_threshold exceeded: 10 failed items, 9 allowed" in capsys.readouterr().err
    assert main(["verify", run]) == 0
    assert Path(run, "receipt.json").exists()
    assert Counter(workshop.invocations()) == after


def test_retry_failed_gives_a_fresh_set_of_tries(workshop, capsys):
    """Only to what failed; the tries are numbered on."""
    run = aborted(workshop)
    main(["resume", run, "--error-threshold", "10"])
    assert main(["resume", run, "--error-threshold", "10", "--retry-failed"]) == 0
    assert [attempt for index, attempt in workshop.invocations() if index == 3] == [1, 2, 3, 4]
    assert len(workshop.invocations()) == 9 + 4
    assert main(["verify", run]) == 0
    assert main(["failed", run]) == 0
    assert "ZeroDivisionError: division by zero (raised; 4 failed attempts of 1 mini-batch" in capsys.readouterr().out


def test_a_changed_world_is_named_and_refused(workshop, capsys):
    """Item by item; with --accept-changes only what changed is run again."""
    source = workshop.folder / "code"
    source.mkdir()
    for name in ("slow.py", "counts.py"):
        (source / name).write_text((workshop.scripts / name).read_text())
    step = workshop.step(
        "slow.py", "--sleep", "0", "--poison", "3", source_directory=str(source), error_threshold=9, run_max_try=1
    )
    with pytest.raises(LimitExceededError) as caught:
        step()
    run = caught.value.run_directory
    done = {row[0] for row in ledger(run, "SELECT mini_batch FROM mini_batches WHERE state='succeeded'")}
    (workshop.files / "f099.txt").write_text("longer than before")
    (workshop.files / "f098.txt").unlink()
    (workshop.files / "f0985.txt").write_text("new")
    (source / "helper.py").write_text("")
    assert main(["resume", run, "--error-threshold", "10"]) == 1
    words = capsys.readouterr().err
    for expected in (
        "f099.txt has changed",
        "f098.txt no longer exists",
        "f0985.txt is new",
        "script file helper.py is new",
    ):
        assert expected in words
    assert not Path(workshop.output, "parallel_run_step.txt").exists()
    before = Counter(workshop.invocations())
    assert main(["resume", run, "--error-threshold", "10", "--accept-changes", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["run_directory"] != run
    again = Counter(workshop.invocations()) - before
    assert {index for index, _ in again} == (set(range(10)) - done - {3}) | {9}
    names = [f"f{number:03d}.txt" for number in range(98)] + ["f0985.txt", "f099.txt"]
    assert Path(result["output_file"]).read_text().split() == [name for name in names if name[:3] != "f03"]
    assert main(["verify", result["run_directory"]]) == 0


def test_secrets_must_be_given_again(workshop, capsys, monkeypatch):
    """Their values are kept nowhere; another value is a difference."""
    run = aborted(workshop, environment_variables={"TOKEN_FOR_TEST": "canary-1"})
    assert main(["resume", run, "--error-threshold", "10"]) == 2
    assert "TOKEN_FOR_TEST" in capsys.readouterr().err
    monkeypatch.setenv("TOKEN_FOR_TEST", "other")
    assert main(["resume", run, "--error-threshold", "10"]) == 1
    assert "the values of environment_variables differ" in capsys.readouterr().err
    monkeypatch.setenv("TOKEN_FOR_TEST", "canary-1")
    assert main(["resume", run, "--error-threshold", "10"]) == 0


def test_verify_finds_what_was_altered(workshop, capsys):
    """A byte in a part, in the result, a row of the ledger, the plan."""
    import sqlite3

    result = workshop.step()()
    run = Path(result.run_directory)
    assert main(["verify", str(run)]) == 0
    part = next((run / "parts").iterdir())
    original = part.read_bytes()
    part.write_bytes(b"X" + original[1:])
    assert main(["verify", str(run)]) == 1
    assert "was altered" in capsys.readouterr().out
    part.write_bytes(original)
    output = Path(result.output_file)
    text = output.read_bytes()
    output.write_bytes(text + b"more\n")
    assert main(["verify", str(run), "--json"]) == 1
    assert "was changed after it was published" in json.loads(capsys.readouterr().out)["problems"][0]
    output.write_bytes(text)
    connection = sqlite3.connect(run / "ledger.sqlite")
    with connection:
        connection.execute("UPDATE mini_batches SET failed = 1 WHERE mini_batch = 4")
    connection.close()
    assert main(["verify", str(run)]) == 1
    assert (
        "mini-batches 4 have counts of succeeded and failed items that do not add up to their items" in capsys.readouterr().out
    )


def test_replay_runs_one_mini_batch_in_the_foreground(workshop, capsys):
    """Its rows, or the traceback of the script; the ledger is not touched."""
    result = workshop.step("poison.py", "--how", "raise", "--poison", "3", run_max_try=1)()
    before = Path(result.run_directory, "ledger.sqlite").read_bytes()
    assert main(["replay", result.run_directory, "--mini-batch", "2"]) == 0
    told = capsys.readouterr()
    assert told.out.split()[-10:] == [f"f{number:03d}.txt" for number in range(20, 30)]
    assert (
        f"mini-batch 2, 10 items: {workshop.files / 'f020.txt'} and 9 more; run_invocation_timeout does not apply" in told.err
    )
    assert main(["replay", result.run_directory, "--mini-batch", "3"]) == 1
    assert "1 / 0" in capsys.readouterr().err
    assert main(["replay", result.run_directory, "--mini-batch", "10"]) == 1
    assert "has no mini-batch 10; there are 10, from 0" in capsys.readouterr().err
    assert Path(result.run_directory, "ledger.sqlite").read_bytes() == before


def test_a_folder_that_is_no_run_directory(tmp_path, capsys):
    """Says so."""
    for command in ("resume", "show", "verify", "failed"):
        assert main([command, str(tmp_path)]) == 1
        assert "is not a run directory" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["truncated", "altered", "gone"])
def test_a_part_that_is_damaged_behind_our_back_is_never_published(workshop, what, capsys):
    """Between an abort and the resume; the reason is named, and the ledger stays intact."""
    run = aborted(workshop, process_count_per_node=1)
    part = max(Path(run, "parts").iterdir(), key=lambda path: path.stat().st_size)
    if what == "truncated":
        os.truncate(part, 5)
    elif what == "altered":
        part.write_bytes(part.read_bytes()[:-3] + b"XX\n")
    else:
        part.unlink()
    assert main(["resume", run, "--error-threshold", "10"]) == 1
    assert f"OutputError: output {workshop.output / 'parallel_run_step.txt'}: {part.name}" in capsys.readouterr().err
    assert not (workshop.output / "parallel_run_step.txt").exists()
    assert ledger(run, "PRAGMA integrity_check") == [("ok",)]
