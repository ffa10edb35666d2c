"""If any byte of a run directory is damaged, a resume gives the same result, or one error that names the file."""

import json
import re
import shutil
from contextlib import closing, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from zlib import crc32

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prefect_parallel_run import FileDataset, ParallelRunConfig
from prefect_parallel_run.child.runner import Part
from prefect_parallel_run.cli import main
from prefect_parallel_run.compute.local import LocalTarget
from prefect_parallel_run.errors import ComputeTargetError, RunFileError
from prefect_parallel_run.execution import runner as driving
from prefect_parallel_run.execution.execute import _load_plan
from prefect_parallel_run.execution.runner import Callbacks, run_step
from prefect_parallel_run.models import Receipt, execution_prefix
from prefect_parallel_run.output.reduction import reduce
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.runs.create import complete_description
from prefect_parallel_run.runs.integrity import check
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory, read_json, write_json
from prefect_parallel_run.runs.spec import StepSpec
from prefect_parallel_run.storage.paths import RUNS_FOLDER

FILES, EACH = 24, 2
PAGE = 4096  #: bytes of a page of SQLite's
PART = "with the rows of mini-batch"  #: in the error about a missing part, which a damaged name leads to
SCRIPT = "def run(names):\n    return names\n"


def work_off(directory, ledger, drive, stop_after):
    """Do what a drive does, in this process: every mini-batch returns the names of its files; number 3 fails at first."""
    plan, remainder = _load_plan(directory, None, ledger, lambda: None)
    complete_description(directory, None)
    part = Part(str(directory.parts / f"{execution_prefix(drive)}node-0.part"))
    todo = [(number, attempt) for number, attempt, _, _ in remainder.waiting]
    todo += [(number, 1) for first, last in remainder.pending for number in range(first, last)]
    for done, (number, attempt) in enumerate(todo):
        if done == stop_after:
            raise ComputeTargetError("local", "lost")
        names = json.loads(plan.works(number, number + 1)[0])["names"]
        at = {"started": 1.0, "seconds": 0.1}
        if number == 3 and attempt == 1:
            facts = {"error_type": "ValueError", "error": "no", "fingerprint": "f"}
            ledger.commit([(Receipt.of_failure(3, 1, "raised", items=len(names), **facts, **at), "waiting")])
            todo.append((3, 2))
            continue
        body = "".join(f"{name}\n" for name in names).encode()
        counts = {"items": len(names), "succeeded": len(names), "failed": 0, "rows": len(names)}
        receipt = Receipt(number, attempt, "succeeded", **counts, **place(part, body), **at)
        ledger.commit([(receipt, "succeeded")])


def place(part, body):

    offset = part.append(b"", body)
    return {"part": Path(part.path).name, "offset": offset, "header": 0, "length": len(body), "crc": crc32(body)}


class Workshop:
    """A run that was interrupted in the middle, and its files as they were then."""

    def __init__(self, folder):
        self.files, self.output = folder / "files", folder / "out"
        self.files.mkdir()
        for number in range(FILES):
            (self.files / f"f{number:02d}.txt").touch()
        (folder / "script.py").write_text(SCRIPT)
        config = ParallelRunConfig(
            entry_script=str(folder / "script.py"),
            error_threshold=0,
            output_action="append_row",
            mini_batch_size=EACH,
        )
        self.spec = StepSpec(
            name="names",
            config=config,
            datasets=[FileDataset.from_files(self.files).as_named_input("files")],
            output=str(self.output),
            interpreter=None,
            home=folder / "home",
        )
        self.stop_after = 7
        with pytest.raises(ComputeTargetError):
            self.run()
        (path,) = (self.output / RUNS_FOLDER).glob("names-*")
        self.directory, self.kept = RunDirectory(path), folder / "kept"
        shutil.copytree(path, self.kept)
        self.stop_after = -1
        self.result = self.output / "parallel_run_step.txt"
        self.right = "".join(f"f{number:02d}.txt\n" for number in range(FILES))

    def run(self):
        return run_step(self.spec, LocalTarget(), Callbacks(reduce=reduce, emit=ignore))

    def drive(self, run, startup):
        planner = run.selection.planner
        if planner is not None:
            while not planner.is_over():
                planner.take()
            planner.take()
        work_off(run.directory, run.ledger, run.execution, self.stop_after)

    def restore(self):
        shutil.rmtree(self.directory.path)
        shutil.copytree(self.kept, self.directory.path)
        self.result.unlink(missing_ok=True)

    def resume(self):
        """Resume the run; it must end well with the right result, or with one error about a file in it."""
        code, told = command("resume", self.directory.path)
        if code == 0:
            assert self.result.read_text() == self.right
            receipt = read_json(self.directory.receipt)
            assert receipt["items"] == {"total": FILES, "succeeded": FILES, "failed": 0, "not_reached": 0}
            assert (receipt["rows"], receipt["mini_batches"]["succeeded"]) == (FILES, FILES // EACH)
        else:
            assert (code, self.result.exists()) == (1, False)
            (line,) = [line for line in told.splitlines() if "Error: " in line] or [told]
            assert re.search(rf"run file {self.directory.path}/[\w.]+: |{PART}", line), line
        return code, told

    def look(self):
        """Look at the run in every way; what cannot be read is one error."""
        command("list", self.output)
        command("failed", self.directory.path, "--items")
        for name in ("show", "failed", "verify", "report"):
            command(name, self.directory.path)


def command(name, path, *options):
    """Return the exit code of a command, and what it says on stderr."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as told:
        code = main([name, str(path), *options])
    assert code in (0, 1), told.getvalue()
    assert "Traceback" not in told.getvalue()
    return code, told.getvalue()


def ignore(*_, **__):
    pass


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        made = object.__new__(Workshop)
        patch.setattr(driving, "execute", made.drive)
        patch.setattr(driving, "_report", ignore)
        made.__init__(tmp_path_factory.mktemp("damaged"))
        yield made


def flip(path, at, mask):
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= mask
    path.write_bytes(data)


NAMES = st.sampled_from(["plan.parquet", "run.json", "ledger.sqlite"])


def test_an_undamaged_run_resumes(workshop):
    """Otherwise the tests below would prove nothing."""
    workshop.restore()
    assert workshop.resume()[0] == 0
    assert command("verify", workshop.directory.path)[0] == 0


@settings(max_examples=40)
@given(name=NAMES, at=st.integers(0, 1 << 20), mask=st.integers(1, 255))
@example(name="ledger.sqlite", at=18, mask=1)  # SQLite then takes the ledger for a read-only one
def test_a_flipped_byte_changes_no_result(workshop, name, at, mask):
    """At any position."""
    workshop.restore()
    flip(workshop.directory.path / name, at, mask)
    workshop.look()
    workshop.restore()
    flip(workshop.directory.path / name, at, mask)
    workshop.resume()


@settings(max_examples=25)
@given(source=st.integers(0, 1000), target=st.integers(0, 1000))
@example(source=2, target=1)
def test_a_duplicated_page_changes_no_result(workshop, source, target):
    """It once caused an endless run."""
    workshop.restore()
    data = bytearray(workshop.directory.ledger.read_bytes())
    pages = len(data) // PAGE
    source, target = source % pages * PAGE, target % pages * PAGE
    data[target : target + PAGE] = data[source : source + PAGE]
    workshop.directory.ledger.write_bytes(data)
    workshop.resume()


def swapped_plan(path, one, other):
    """Have two mini-batches change places, in a file that is otherwise what a planner writes."""
    table = pq.read_table(path)
    order = list(range(len(table)))
    order[one], order[other] = order[other], order[one]
    numbers = table.column("mini_batch")
    changed = table.take(order).set_column(0, "mini_batch", numbers)
    pq.write_table(changed.replace_schema_metadata(pq.read_metadata(path).metadata), path)


@pytest.mark.parametrize(("one", "other"), [(0, 1), (2, 11), (10, 11)])
def test_a_reordered_plan_is_rejected(workshop, one, other):
    """Its rows would be published in that order."""
    workshop.restore()
    swapped_plan(workshop.directory.plan, one, other)
    code, told = workshop.resume()
    assert code == 1
    assert "plan.parquet: was altered since the run was planned" in told
    for name, *options in (("report",), ("failed",), ("failed", "--items"), ("replay", "--mini-batch", "0"), ("plan",)):
        code, told = command(name, workshop.directory.path, *options)
        assert code == 1
        assert "plan.parquet: was altered" in told
    with pytest.raises(RunFileError, match=r"plan.parquet"):
        workshop.run()


def test_a_plan_of_another_run_is_rejected(workshop, tmp_path):
    """It is undamaged, but its hash differs."""
    workshop.restore()
    description = read_json(workshop.directory.description)
    description["identity"]["plan_sha256"] = "0" * 64
    write_json(workshop.directory.description, dict(description))
    code, told = workshop.resume()
    assert code == 1
    assert "plan.parquet: is not the plan that the run was started with" in told


def test_a_missing_plan_is_named(workshop):
    """It must not be planned again."""
    workshop.restore()
    workshop.directory.plan.unlink()
    code, told = workshop.resume()
    assert code == 1
    assert "plan.parquet: does not exist" in told


@pytest.mark.parametrize("at_once", [{0: 2}, {5: 11, 9: 9}])
def test_a_ledger_of_another_plan_is_rejected(workshop, at_once):
    """Numbers of items differ."""
    workshop.restore()
    with closing(Ledger(workshop.directory.ledger)) as ledger:
        for number in at_once:
            ledger._connection.execute("UPDATE mini_batches SET items = items + 1 WHERE mini_batch = ?", (number,))
    code, told = workshop.resume()
    assert code == 1
    assert "ledger.sqlite: " in told


def test_an_altered_receipt_is_not_returned(workshop):
    """The result of a reused run comes from its receipt."""
    workshop.restore()
    assert workshop.resume()[0] == 0
    whole = workshop.directory.receipt.read_text()
    workshop.directory.receipt.write_text(whole.replace('"rows": 24', '"rows": 25'))
    with pytest.raises(RunFileError, match=r"receipt.json: was altered since the run wrote it"):
        workshop.run()
    code, told = command("resume", workshop.directory.path)
    assert code == 1
    assert "receipt.json: was altered" in told
    workshop.directory.receipt.write_text(whole)
    assert workshop.run().rows == FILES


def test_a_finished_run_is_reused_without_its_plan(workshop):
    """For a run in a store only the description and the receipt are fetched."""
    workshop.restore()
    assert workshop.resume()[0] == 0
    workshop.directory.plan.unlink()
    result = workshop.run()
    assert (result.reused, result.rows) == (True, FILES)


def test_files_without_checksums_are_read(workshop):
    """An earlier version wrote neither checksums nor, before planning had finished, the plan's hash."""
    workshop.restore()
    facts = json.loads(workshop.directory.description.read_text())
    del facts["checksum"], facts["identity"]["plan_sha256"]
    workshop.directory.description.write_text(json.dumps(facts))
    check(workshop.directory)
    assert Plan(workshop.directory.plan).problem(facts["identity"]) == ""
    assert workshop.resume()[0] == 0
