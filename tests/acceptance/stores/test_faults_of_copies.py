"""Copies of run directories, and what becomes of them when a run, a machine or the store ends at the wrong moment."""

import os
import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from prefect_parallel_run import InputError, LimitExceededError, OutputError, RunLockedError, TabularDataset
from prefect_parallel_run.cli import main
from prefect_parallel_run.runs import mirror as module
from prefect_parallel_run.runs.mirror import RunMirror
from prefect_parallel_run.storage import objects

from ..conftest import pause_listing, wait_until
from .conftest import BUCKET

OUT = f"s3://{BUCKET}/out"
NAMES = [f"f{number:03d}.txt" for number in range(100)]


def aborted(workshop, **fields):
    step = workshop.step("poison.py", "--how", "raise", "--poison", "3", run_max_try=1, error_threshold=9, **fields)
    with pytest.raises(LimitExceededError):
        step()


def run_url(store):
    (run,) = store.ls(f"{OUT}/_parallel_run", refresh=True)
    return f"s3://{run}"


def home():
    """Where runs with an output in a store work, on the first machine."""
    from prefect.settings import get_current_settings

    return Path(get_current_settings().home)


def interrupt_when(event):
    """Send Ctrl-C to this process once *event* is set."""

    def wait():
        if event.wait(60):
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def background():
    ours = ("mirror", "listing", "planning", "upload", "pulling")
    return [thread.name for thread in threading.enumerate() if thread.name in ours]


def test_a_plan_that_grows_while_it_goes_up(workshop, s3, monkeypatch):
    """What goes up is what it was at one moment."""
    going_up, upload = threading.Event(), objects.upload

    def note(local, url, *check_cancelled):
        if url.endswith("plan.spool"):
            going_up.set()
        return upload(local, url, *check_cancelled)

    pause_listing(monkeypatch, lambda: wait_until(going_up.is_set))
    monkeypatch.setattr(objects, "upload", note)
    result = workshop.step(output=OUT, mini_batch_size=1)()
    assert s3.cat_file(result.output_file).decode().split() == NAMES


def test_a_cancelled_run_gives_its_copy_up(workshop, s3, monkeypatch):
    """Cancelled while the first copy is made: no thread goes on, and another machine may take the run."""
    monkeypatch.setattr(module, "_EVERY", 0.3)
    started, push = threading.Event(), RunMirror._push

    def slow(self, check_cancelled, *, is_last):
        if not is_last:
            started.set()
            wait_until(check_cancelled, 60)  # raises once nobody wants it
        push(self, check_cancelled, is_last=is_last)

    monkeypatch.setattr(RunMirror, "_push", slow)
    interrupt_when(started)
    with pytest.raises(KeyboardInterrupt):
        workshop.step(output=OUT)()
    wait_until(lambda: not background())
    monkeypatch.undo()
    for run in s3.ls(f"{OUT}/_parallel_run", refresh=True) if s3.exists(f"{OUT}/_parallel_run") else ():
        assert b'"released": true' in s3.cat_file(f"{run}/lock.json")


def test_a_run_that_is_cancelled_while_its_result_goes_up_publishes_nothing(workshop, s3, monkeypatch):
    """The object appears when all of it has come; going on publishes it."""
    monkeypatch.setattr(objects, "_PIECE", 5 << 20)
    source = workshop.folder / "source"
    source.mkdir()
    (source / "long.py").write_text("def run(mini_batch):\n    return ['x' * 60_000 for _ in mini_batch]\n")
    fields = {"source_directory": str(source), "output": OUT}
    started = threading.Event()
    pieces = objects._upload_in_pieces

    def slow(store, local, name, check_cancelled):
        def wait():
            started.set()
            wait_until(check_cancelled, 60)  # raises once nobody wants it

        pieces(store, local, name, wait)

    monkeypatch.setattr(objects, "_upload_in_pieces", slow)
    interrupt_when(started)
    with pytest.raises(KeyboardInterrupt):
        workshop.step("long.py", **fields)()
    wait_until(lambda: not background())
    assert not s3.exists(f"{OUT}/parallel_run_step.txt")
    monkeypatch.undo()
    result = workshop.step("long.py", **fields)()
    assert s3.info(result.output_file)["size"] > 5 << 20
    assert main(["verify", result.run_directory]) == 0


def test_a_large_result_goes_up_in_pieces(s3, tmp_path, monkeypatch):
    """It is the same, byte for byte."""
    monkeypatch.setattr(objects, "_PIECE", 5 << 20)
    (tmp_path / "large").write_bytes(os.urandom(13 << 20))
    objects.upload(tmp_path / "large", f"{OUT}/large")
    assert s3.cat_file(f"{OUT}/large") == (tmp_path / "large").read_bytes()
    assert s3.proxy.seen[f"PUT /{BUCKET}/out/large"] == 3


def test_a_listing_that_nobody_waits_for_ends(workshop, monkeypatch):
    """Cancelled while the inputs are listed to find an earlier run."""
    from prefect_parallel_run.storage.listing import Listing

    workshop.step()()
    (workshop.files / "new.txt").write_text("1")
    blocks, started = Listing.blocks, threading.Event()

    def endless(self):
        yield from blocks(self)
        started.set()
        wait_until(self._check_cancelled, 60)  # raises once nobody wants it

    monkeypatch.setattr(Listing, "blocks", endless)
    interrupt_when(started)
    with pytest.raises(KeyboardInterrupt):
        workshop.step()()
    wait_until(lambda: not background())


def test_a_machine_that_ends_between_parts_and_ledger(workshop, s3, monkeypatch):
    """What went up of the parts is not in the way of the next machine."""
    upload = objects.upload

    def end_before_the_ledger(local, url, *check_cancelled):
        if url.endswith("ledger.sqlite") and workshop.invocations():
            raise OutputError(url, "the machine ends here")
        return upload(local, url, *check_cancelled)

    monkeypatch.setattr(objects, "upload", end_before_the_ledger)
    aborted(workshop, output=OUT)
    monkeypatch.setattr(objects, "upload", upload)
    assert objects.names_below(f"{run_url(s3)}/parts")
    monkeypatch.setattr(module, "_STALE", 0.0)
    monkeypatch.setenv("PREFECT_HOME", str(workshop.folder / "another"))
    assert main(["resume", run_url(s3), "--error-threshold", "10"]) == 0
    assert s3.cat_file(f"{OUT}/parallel_run_step.txt").decode().split() == [name for name in NAMES if name[:3] != "f03"]
    assert main(["verify", run_url(s3)]) == 0


def test_a_run_that_another_machine_has_taken_over_ends(workshop, s3, tmp_path):
    """It never writes into the copy that is now another's."""
    aborted(workshop, output=OUT)
    (path,) = home().rglob(f"{run_url(s3).rpartition('/')[2]}/run.json")
    from prefect_parallel_run.runs.run_directory import RunDirectory

    first = RunMirror(RunDirectory(path.parent), run_url(s3), pytest.fail)
    module.pull(run_url(s3), tmp_path / "run")
    second = RunMirror(RunDirectory(tmp_path / "run"), run_url(s3), pytest.fail)
    with closing(first), closing(second):
        first.begin(lambda: None)
        objects.write(f"{run_url(s3)}/lock.json", b'{"token": "", "released": true}')  # as if it had been silent for long
        second.begin(lambda: None)
        with pytest.raises(RunLockedError):
            first._raise_if_taken()
        with pytest.raises(RunLockedError):
            first.raise_if_lost()
        first.close()
        assert b"released" not in s3.cat_file(f"{run_url(s3)}/lock.json")
    assert b"released" in s3.cat_file(f"{run_url(s3)}/lock.json")


def test_a_copy_that_was_not_finished_is_made_whole_by_the_next_start(workshop, s3):
    """The result was published; what the run says of itself follows."""
    s3.proxy.fault = lambda method, path: "500" if method == "PUT" and path.endswith("receipt.json") else None
    with pytest.raises(OutputError, match=r"receipt.json: cannot be written"):
        workshop.step(output=OUT)()
    s3.proxy.reset()
    result = workshop.step(output=OUT)()
    assert result.reused
    assert main(["verify", result.run_directory]) == 0
    assert s3.exists(result.receipt)
    assert len(workshop.invocations()) == 10


def test_variables_are_told_apart_by_name_on_another_machine(workshop, s3, monkeypatch):
    """Their hashes are made with a key that never leaves the first one."""
    aborted(workshop, output=OUT, environment_variables={"X_TOKEN": "v"})
    monkeypatch.setenv("X_TOKEN", "v")
    monkeypatch.setenv("PREFECT_HOME", str(workshop.folder / "another"))
    assert main(["resume", run_url(s3), "--error-threshold", "10"]) == 0


def test_a_table_that_was_partitioned_on_another_machine_is_named(workshop, s3, monkeypatch, capsys):
    """Its copy is there and nowhere else."""
    (workshop.folder / "t.csv").write_text("k,v\n" + "".join(f"{row % 3},{row}\n" for row in range(30)))
    inputs = TabularDataset.from_delimited_files([workshop.folder / "t.csv"])
    fields = {"inputs": inputs, "partition_keys": ["k"], "mini_batch_size": None, "error_threshold": 0, "run_max_try": 1}
    with pytest.raises(LimitExceededError):
        workshop.step("no_retry.py", "--log", str(workshop.log), output=OUT, **fields)()
    partitions = next(home().rglob("partitions"))
    partitions.rename(partitions.with_name("elsewhere"))
    monkeypatch.setenv("PREFECT_HOME", str(workshop.folder / "another"))
    assert main(["resume", run_url(s3), "--error-threshold", "-1"]) == 1
    assert "was written on the machine that started the run, for its partition_keys" in capsys.readouterr().err


def test_the_rows_of_a_query_stay_on_their_machine(workshop, s3, monkeypatch, capsys):
    """On another one, resume names them; it and the step run the query again on request."""
    with closing(sqlite3.connect(workshop.folder / "shop.db")) as database:
        database.execute("CREATE TABLE t (n INTEGER)")
        database.execute("INSERT INTO t VALUES (1), (2)")
        database.commit()
    inputs = TabularDataset.from_sql_query("SELECT n FROM t", f"sqlite:///{workshop.folder}/shop.db")
    fields = {"inputs": inputs, "mini_batch_size": 1, "error_threshold": 0, "run_max_try": 1, "output": OUT}
    with pytest.raises(LimitExceededError):
        workshop.step("no_retry.py", "--log", str(workshop.log), **fields)()
    (inputs,) = home().rglob("inputs")
    inputs.rename(inputs.with_name("elsewhere"))
    monkeypatch.setenv("PREFECT_HOME", str(workshop.folder / "another"))
    run = run_url(s3)
    assert main(["resume", run, "--error-threshold", "-1"]) == 1
    assert "inputs/input_0.parquet no longer exists" in " ".join(capsys.readouterr().err.split())
    (workshop.folder / "shop.db").rename(workshop.folder / "gone.db")
    assert main(["resume", run, "--error-threshold", "-1", "--accept-changes"]) == 1
    assert "No such file or directory" in " ".join(capsys.readouterr().err.split())
    (workshop.folder / "gone.db").rename(workshop.folder / "shop.db")
    main(["resume", run, "--error-threshold", "-1", "--accept-changes"])
    assert "of 2 items" in " ".join(capsys.readouterr().err.split())


def test_an_output_that_was_removed_is_made_again(workshop, s3):
    """Of a summary too."""
    workshop.step(output=OUT, output_action="summary_only")()
    s3.rm(f"{BUCKET}/out", recursive=True)
    assert not workshop.step(output=OUT, output_action="summary_only")().reused


def test_two_steps_with_one_output_are_told(workshop, s3, caplog):
    """As on disk."""
    workshop.step(name="first", output=OUT)()
    workshop.step(name="second", output=OUT)()
    assert "the result of run first-" in caplog.text


def test_what_the_script_writes_among_its_inputs_is_no_input_of_the_same_run(workshop, s3):
    """Where the output lies in an input, all is planned before anything runs."""
    for number in range(20):
        s3.pipe_file(f"{BUCKET}/in/{number:02d}", b"1")
    source = workshop.folder / "source"
    source.mkdir()
    (source / "writes.py").write_text(
        "import os, s3fs\n"
        "def run(mini_batch):\n"
        "    for path in mini_batch:\n"
        "        name = os.path.basename(path)\n"
        "        s3fs.S3FileSystem().pipe_file(os.environ['AZUREML_BI_OUTPUT_PATH'] + '/' + name, b'1')\n"
        "    return mini_batch\n"
    )
    fields = {"source_directory": str(source), "output_action": "summary_only", "mini_batch_size": 1}
    result = workshop.step("writes.py", inputs=f"s3://{BUCKET}/in", output=f"s3://{BUCKET}/in/zz", **fields)()
    assert (result.items_total, result.items_succeeded) == (20, 20)
    assert len(s3.ls(f"{BUCKET}/in/zz")) == 20 + 1


def test_names_that_mean_something_else_to_the_stores_library_are_refused(workshop, s3):
    """Rather than read as another object."""
    s3.call_s3("put_object", Bucket=BUCKET, Key="in/a::b", Body=b"1")
    with pytest.raises(InputError, match=r"in/a::b: has one of ::"):
        workshop.step(inputs=f"s3://{BUCKET}/in")()


def test_a_folder_that_an_object_has_the_name_of(workshop, s3):
    """With a slash it is the folder."""
    s3.pipe_file(f"{BUCKET}/in", b"marker")
    s3.call_s3("put_object", Bucket=BUCKET, Key="in/a.txt", Body=b"1")
    assert workshop.step(inputs=f"s3://{BUCKET}/in/")().items_total == 1
    assert workshop.step(inputs=f"s3://{BUCKET}/in")().items_total == 1
    assert sorted(workshop.output.glob("*.txt"))[0].read_text().split() == ["in"]
