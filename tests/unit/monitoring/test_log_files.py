"""The files that the flow process writes to logs/: rows that agree with the ledger, counts, and a readable overview."""

import csv
import logging

import pytest

from prefect_parallel_run.models import Breach, Receipt, Tally
from prefect_parallel_run.monitoring.listeners import listeners_of
from prefect_parallel_run.monitoring.log_files import (
    OVERVIEW,
    PROCESSED,
    PROCESSED_COLUMNS,
    PROCESSED_HEADER,
    PROGRESS,
    PROGRESS_HEADER,
    RunFiles,
)
from prefect_parallel_run.monitoring.progress import ProgressTracker
from prefect_parallel_run.node.settings import NodeFacts
from prefect_parallel_run.runs.events import (
    ExecutionEnded,
    NodeJoined,
    NodeLost,
    PieceFinished,
    Progressed,
    ReceiptsCommitted,
    RunContinued,
    RunFinished,
    RunPaused,
    RunStarted,
    SchedulingPaused,
    SchedulingResumed,
    emit_to,
)
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

NASTY = 'pkg.O"dd,\nError\udcff'


def receipt(index, attempt=1, error_type="", node="node-0"):
    outcome = "raised" if error_type else "succeeded"
    error = (error_type, "all\x1b[2J\nbad", "", f"f{len(error_type)}") if error_type else ()
    return Receipt(index, attempt, outcome, 10, 10, 0, 10, "", 0, 0, 0, 0, 1_700_000_000.25 + index, 0.5, node, 7, *error)


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "score-1")
    directory.make()
    with Ledger.create(directory.ledger, [10] * 6) as ledger:
        ledger.record(drives="1", status="running")
    return directory


def files_of(run, tally, clock=lambda: 100.0):
    """Return what passes events to the writer of the files, after the start of the run."""
    tracker = ProgressTracker(clock)
    files = RunFiles("score", logging.getLogger("test"), tracker, clock)
    emit_to([tracker, files])(RunStarted(run, tally))
    return files.handle


def listening():
    """Return what passes events to the listeners of a run without Prefect, and these."""
    listeners = listeners_of("score", logging.getLogger("test"), in_prefect=False)
    return emit_to(listeners), listeners


def commit(run, emit, *receipts, state="succeeded"):
    with Ledger(run.ledger) as ledger:
        ledger.commit([(receipt, "waiting" if receipt.error_type else state) for receipt in receipts])
    emit(ReceiptsCommitted(receipts))


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def attempts(run):
    with Ledger(run.ledger) as ledger:
        query = f"SELECT {', '.join(PROCESSED_COLUMNS)} FROM attempts ORDER BY mini_batch, attempt"
        numbers = ("started", "seconds")
        attempts = [dict(zip(PROCESSED_COLUMNS, values, strict=True)) for values in ledger.rows(query)]
        return [{name: f"{v:.6f}" if name in numbers else str(v) for name, v in row.items()} for row in attempts]


def test_rows_of_finished_attempts_agree_with_the_ledger(run):
    """Including failed attempts with unusual names of error types."""
    emit = files_of(run, Tally(planned=6))
    commit(run, emit, receipt(0), receipt(1, error_type="ValueError"))
    commit(run, emit, receipt(1, 2, error_type=NASTY), receipt(2))
    assert rows(run.logs / PROCESSED) == attempts(run)
    assert len(attempts(run)) == 4


def test_resumed_run_rewrites_the_rows_from_the_ledger(run):
    """So that they agree with it, even if the previous execution was killed while it wrote."""
    emit = files_of(run, Tally(planned=6))
    commit(run, emit, receipt(0), receipt(1, error_type=NASTY))
    with (run.logs / PROCESSED).open("a") as file:
        file.write("5,1,succeeded,never committed\n2,1,torn of")
    with Ledger(run.ledger) as ledger:
        ledger.record(drives="2")
    emit = files_of(run, Tally(planned=6, succeeded=1))
    assert rows(run.logs / PROCESSED) == attempts(run)
    commit(run, emit, receipt(3))
    assert rows(run.logs / PROCESSED) == attempts(run)
    assert (run.logs / f"r2.{PROGRESS}").read_text() == PROGRESS_HEADER
    assert sorted(path.name for path in run.logs.iterdir()) == [PROCESSED, PROGRESS, f"r2.{PROGRESS}"]


def test_counts_and_overview_are_written_when_due(run):
    """And at the end; error messages cannot break the lines of the overview."""
    now = [100.0]
    emit = files_of(run, Tally(planned=6, items=60), lambda: now[0])
    emit(NodeJoined(NodeFacts(node="node-0", host="alpha", pid=1, cores=2, slots=3)))
    emit(NodeJoined(NodeFacts(node="node-10", host="beta", pid=1, cores=2, slots=1)))
    for second in range(4):
        now[0] = 100.0 + second
        emit(Progressed(Tally(planned=6, items=60, succeeded=second)))
    written = rows(run.logs / PROGRESS)
    assert [row["succeeded"] for row in written] == ["0", "1", "2", "3"]
    assert [row["remaining_seconds"] for row in written] == ["", "", "4.0", "3.0"]
    assert "       0" in (run.logs / OVERVIEW).read_text()
    commit(run, emit, receipt(0), receipt(1, error_type="ValueError"))
    commit(run, emit, receipt(2, error_type="ValueError", node="node-10"))
    emit(NodeLost("node-10"))
    tally = Tally(planned=6, items=60, succeeded=1, succeeded_items=10, waiting=2, waiting_items=20, rows=1_234)
    emit(ExecutionEnded(tally))
    emit(RunFinished("interrupted", "the cluster\nis gone"))
    assert (run.logs / OVERVIEW).read_text() == (run.logs / OVERVIEW).read_text().replace("\x1b", "")
    lines = [" ".join(line.split()) for line in (run.logs / OVERVIEW).read_text().splitlines()]
    assert lines[:3] == ["run score-1", "step score", "status interrupted: the cluster is gone"]
    assert "after 3.0 s" in lines[3]
    assert lines[5:9] == [
        "planned succeeded failed waiting not reached",
        "mini-batches 6 1 0 2 3",
        "items 60 10 0 20 30",
        "rows 1,234",
    ]
    assert lines[lines.index("nodes of this execution") + 1 :][:2] == [
        "node-0: on alpha, processes: 3; attempts: 2, failed: 1",
        "node-10: on beta, processes: 1; attempts: 1, failed: 1; lost",
    ]
    assert lines[-1] == "2: ValueError: all\\x1b[2J bad (raised; first mini-batch 1, on node-0, node-10)"


def test_overview_says_what_holds_a_run(run):
    """A limit or a pause; there is no time to go then."""
    emit, listeners = listening()
    emit(RunStarted(run, Tally(planned=600)))
    (files,) = [listener for listener in listeners if isinstance(listener, RunFiles)]

    def text():
        files._next_overview = 0.0
        emit(Progressed(Tally(planned=600, succeeded=300)))
        return (run.logs / OVERVIEW).read_text()

    emit(SchedulingPaused(Breach("error_threshold", 4, 20)))
    assert "\nto go   on hold: error_threshold 4 is near\n" in text()
    emit(RunPaused())
    assert "status  paused\n" in text()
    assert "\nto go   paused\n" in text()
    emit(RunContinued())
    emit(SchedulingResumed())
    assert "\nto go   unknown yet\n" in text()  # half of them within no time gives no rate
    emit(ExecutionEnded(Tally(planned=600)))
    emit(RunFinished("succeeded"))
    assert "to go" not in (run.logs / OVERVIEW).read_text()


def test_attempts_at_some_items_count_in_the_overview(run):
    """As a resumed run would count them; the rows are only about whole mini-batches."""
    emit = files_of(run, Tally(planned=6))
    commit(run, emit, receipt(1, error_type="ValueError"), state="isolating")
    piece = receipt(1, error_type="ValueError")
    with Ledger(run.ledger) as ledger:
        ledger.commit_piece(piece, (0, 5), 0, "isolating")
    emit(PieceFinished(piece))
    emit(ExecutionEnded(Tally(planned=6)))
    assert "\n  2: ValueError: all" in (run.logs / OVERVIEW).read_text()
    files_of(run, Tally(planned=6))(ExecutionEnded(Tally(planned=6)))
    assert "\n  2: ValueError: all" in (run.logs / OVERVIEW).read_text()
    assert len(rows(run.logs / PROCESSED)) == 1


def test_unwritable_file_is_reported_once_and_abandoned(run, caplog):
    """The run and the other files continue."""
    (run.logs / PROGRESS).symlink_to("/dev/full")
    now = [0.0]
    emit = files_of(run, Tally(planned=6), lambda: now[0])
    for second in range(10):
        now[0] = float(second)
        emit(Progressed(Tally(planned=6)))
    commit(run, emit, receipt(0))
    (warning,) = caplog.messages
    assert warning.startswith("stopped writing ")
    assert warning.endswith("progress.csv: No space left on device")
    assert rows(run.logs / PROCESSED) == attempts(run)


def test_listener_without_prefect_writes_the_files(run):
    """The command line resumes a run without Prefect."""
    emit, _ = listening()
    emit(RunFinished("failed", "before it began"))
    assert list(run.logs.iterdir()) == []
    emit(RunStarted(run, Tally(planned=6)))
    emit(Progressed(Tally(planned=6)))
    with Ledger(run.ledger) as ledger:
        emit(ExecutionEnded(ledger.tally()))
    emit(RunFinished("succeeded"))
    assert "status  succeeded\n" in (run.logs / OVERVIEW).read_text()
    assert (run.logs / PROCESSED).read_text() == PROCESSED_HEADER
    assert len(rows(run.logs / PROGRESS)) == 2
