"""The data of a report: every attempt is counted exactly once, and the sums agree with the ledger."""

import json
import sqlite3
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run._threads import Cancelled
from prefect_parallel_run.errors import OutputError
from prefect_parallel_run.models import Receipt
from prefect_parallel_run.monitoring.locations import location_lines
from prefect_parallel_run.monitoring.report.attempts import MAX_SEGMENTS, columns, quantile
from prefect_parallel_run.monitoring.report.axis import BINS, Axis, spread
from prefect_parallel_run.monitoring.report.data import collect
from prefect_parallel_run.monitoring.report.lanes import ProcessWork, assign_lanes
from prefect_parallel_run.monitoring.report.log_readers import (
    Process,
    ProcessEnd,
    read_processes,
    read_progress,
    read_resources,
)
from prefect_parallel_run.monitoring.report.page import limits, page
from prefect_parallel_run.output.failed_items import select_items
from prefect_parallel_run.runs.executions import record_end, record_start, recorded_executions
from prefect_parallel_run.runs.failures import causes
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory, write_json

from ...made_runs import BEGAN, adjusted, make_run

LOST = "INSERT INTO attempts VALUES (?, ?, 'lost', 'node-0', 0, 0.0, 0.0, 'NodeLost', 'x', '', 'l')"
times = st.floats(0, 1e5)


def nothing():
    pass


@given(st.lists(st.tuples(times, st.floats(0, 500)), min_size=1, max_size=30))
def test_axis_keeps_the_length_of_every_interval(intervals):
    """Only pauses without activity are cut out; positions never decrease."""
    spans = [(start, start + length) for start, length in intervals]
    axis = Axis.over(spans)
    starts, stops = axis.positions([start for start, _ in spans]), axis.positions([stop for _, stop in spans])
    assert np.allclose(stops - starts, [stop - start for start, stop in spans], atol=1e-6)
    assert (starts >= 0).all()
    assert (stops <= axis.seconds + 1e-6).all()
    positions = axis.positions(sorted(start for start, _ in spans))
    assert (np.diff(positions) > -1e-6).all()
    whole = axis.ends - axis.begins
    assert axis.seconds + sum(pause.seconds for pause in axis.pauses) == pytest.approx(whole)


def test_axis_exists_from_one_moment_on():
    """There is none without any."""
    assert Axis.over([]) is None
    assert Axis.over([(5.0, 5.0)]).seconds > 0
    assert Axis.over([(5.0, 5.0), (50.0, 50.0)]).seconds > 0


@given(st.lists(st.tuples(st.integers(0, 2), times, st.floats(0, 2e4)), min_size=1, max_size=40))
def test_bins_sum_up_to_the_length_of_all_intervals(intervals):
    """In each lane; no bin exceeds the time that its intervals could cover."""
    axis = Axis.over([(start, start + length) for _, start, length in intervals])
    lanes = np.asarray([lane for lane, _, _ in intervals])
    starts = axis.positions([start for _, start, _ in intervals])
    stops = axis.positions([start + length for _, start, length in intervals])
    seconds = spread(axis, lanes, starts, stops, 3)
    assert seconds.shape == (3, BINS)
    for lane in range(3):
        assert seconds[lane].sum() == pytest.approx((stops - starts)[lanes == lane].sum(), abs=1e-6)
        assert seconds[lane].max() <= axis.bin_seconds * max((lanes == lane).sum(), 1) * (1 + 1e-9)
    assert seconds.min() >= -1e-6


@pytest.mark.parametrize("logs", [True, False])
@pytest.mark.parametrize("mini_batches", [100, MAX_SEGMENTS + 500])
def test_every_attempt_is_in_one_bin_with_its_duration(tmp_path, mini_batches, logs):
    """With and without process logs, drawn one by one and in bins."""
    made = make_run(tmp_path / "run", mini_batches, fail=0.1, logs=logs)
    facts = collect(made.directory, nothing)
    attempts = facts.timeline.attempts
    assert attempts.dated == made.tries == attempts.durations.counts.sum()
    assert attempts.failed.sum() == attempts.durations.counts[1].sum() == made.failed_tries
    assert attempts.busy.sum() == pytest.approx(made.seconds)
    assert sum(attempts.outcomes.values()) == made.tries
    assert sum(facts.timeline.kills.values()) == made.kills
    assert (attempts.segments is None) == (made.tries > MAX_SEGMENTS)
    if attempts.segments is not None:
        assert len({(segment.mini_batch, segment.attempt) for segment in attempts.segments}) == made.tries
        assert sum(segment.seconds for segment in attempts.segments) == pytest.approx(made.seconds)
        by_lane = sorted((segment.lane, segment.begins, segment.seconds) for segment in attempts.segments)
        for (lane, begins, seconds), (other, following, _) in pairwise(by_lane):
            assert lane != other or begins + seconds <= following + 1e-3  # a slot runs one attempt at a time
    with Ledger(made.directory.ledger) as ledger:
        assert facts.tally == ledger.tally()
    assert len(facts.timeline.lanes.lanes) == 4
    assert bool(facts.timeline.processes.ready.any()) == logs


def test_busy_slot_has_a_ready_process(tmp_path):
    """The spans of its processes do not overlap."""
    facts = collect(make_run(tmp_path / "run", 300, fail=0.1).directory, nothing)
    timeline = facts.timeline
    assert (timeline.attempts.busy <= timeline.processes.ready + 1e-6).all()
    assert (timeline.processes.ready + timeline.processes.starting <= timeline.axis.bin_seconds + 1e-6).all()


def test_causes_add_up_to_all_failed_attempts(tmp_path):
    """Each has the input of its first mini-batch; causes that no later attempt fixed come first."""
    made = make_run(tmp_path / "run", 200, fail=0.1)
    facts = collect(made.directory, nothing)
    assert sum(group.cause.tries for group in facts.failures.causes) == made.failed_tries
    assert facts.tally.failed == len(facts.failures.mini_batches)
    failed_items = [group.cause.failed_items for group in facts.failures.causes]
    assert sum(failed_items) == 10 * facts.tally.failed > 0
    assert failed_items == sorted(failed_items, reverse=True)
    first = facts.failures.causes[0]
    number = first.cause.first_mini_batch
    assert first.inputs[0] == f"/data/images/day={number % 28:02d}/img_{number:06d}_0.jpg"
    assert first.inputs[-1] == "and 7 more files"
    assert [slow.seconds for slow in facts.slowest] == sorted((slow.seconds for slow in facts.slowest), reverse=True)


def test_attempts_at_some_items_are_counted_everywhere(tmp_path):
    """The card of their cause names the failing file; a long one is among the slowest."""
    made = make_run(tmp_path / "run", 40, fail=0.0, logs=False)
    error = {"error_type": "OSError", "error": "truncated", "fingerprint": "t", "node": "node-0", "pid": 1000}
    bad = Receipt.of_failure(7, 1, "raised", items=10, started=BEGAN + 1, seconds=1.0, **error)
    with Ledger(made.directory.ledger) as ledger:
        before = sum(cause.tries for cause in causes(ledger))
        for piece, items in (((4, 5), 1), ((4, 10), 0)):
            ledger.commit_piece(bad._replace(seconds=600.0 + items), piece, items, "succeeded")
    facts = collect(made.directory, nothing)
    assert sum(group.cause.tries for group in facts.failures.causes) == before + 2 == facts.timeline.attempts.failed.sum()
    (group,) = (group for group in facts.failures.causes if group.cause.fingerprint == "t")
    assert (group.inputs, group.cause.failed_items) == (["/data/images/day=07/img_000007_4.jpg"], 1)
    assert [(slow.attempt, slow.items, slow.inputs) for slow in facts.slowest[:2]] == [
        (0, 1, group.inputs),
        (0, 6, [*group.inputs, "and 5 more files"]),
    ]
    html = page(facts, 0.0)
    assert "First failing item" in html
    assert "some items" in html


def test_pauses_between_three_executions_are_cut_out(tmp_path):
    """Slots keep their lanes; each execution has its own log files."""
    made = make_run(tmp_path / "run", 90, fail=0.0, drives=3)
    facts = collect(made.directory, nothing)
    assert [round(pause.seconds, -2) for pause in facts.timeline.axis.pauses] == [3600, 7200]
    assert len(facts.timeline.lanes.lanes) == 4
    assert [execution.status for execution in facts.history.executions] == ["interrupted", "interrupted", "succeeded"]
    assert set(facts.progress) == {1, 2, 3}
    assert facts.timeline.processes.count == 12


def test_missing_files_only_remove_their_sections(tmp_path):
    """A planned run of an older version."""
    directory = RunDirectory(tmp_path / "run")
    directory.make()
    with Ledger.create(directory.ledger, [10] * 3) as ledger:
        facts = collect(directory, nothing)
        assert (facts.timeline, facts.run.plan, facts.run.status, facts.tally.planned) == (None, None, "planned", 3)
        ledger._connection.execute(LOST, (0, 1))
        facts = collect(directory, nothing)
    assert facts.timeline is None  # the attempt has no time
    with pytest.raises(OutputError, match="does not exist"):
        collect(RunDirectory(tmp_path), nothing)


def test_attempt_without_a_time_is_counted_separately(tmp_path):
    """It is not drawn."""
    made = make_run(tmp_path / "run", 5, fail=0.0)
    with Ledger(made.directory.ledger) as ledger:
        ledger._connection.execute(LOST, (4, 2))
    attempts = collect(made.directory, nothing).timeline.attempts
    assert (attempts.undated, attempts.dated) == (1, 5)


def test_reading_stops_when_the_run_is_cancelled(tmp_path):
    """Even during a query: a cancellation does not wait for the report."""
    made = make_run(tmp_path / "run", 20_000, logs=False)
    calls = []

    def check_cancelled():
        calls.append(1)
        if len(calls) > 2:
            raise Cancelled

    with pytest.raises((Cancelled, sqlite3.OperationalError)):
        collect(made.directory, check_cancelled)
    with Ledger(made.directory.ledger) as ledger:
        ledger.watch(check_cancelled)
        slow = ledger.rows("SELECT a.pid FROM attempts a, attempts b WHERE a.pid + b.pid < 0")  # 400 million pairs, no row
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            next(slow)


def work(node, pid, began=0.0, ended=1.0, failed=0):
    return ProcessWork(node, pid, 10, failed, began, ended)


def test_processes_without_a_log_share_lanes():
    """As few as needed; attempts lost with their node have a separate lane."""
    lanes = assign_lanes([work("n", 1, 0, 10), work("n", 2, 0, 4), work("n", 3, 5, 9), work("n", 0, 8, 9)], [])
    assert [lane.label for lane in lanes.lanes] == ["lost with the node", "process 1", "process 2"]
    assert lanes.of("n", 2, 1) == lanes.of("n", 3, 6) != lanes.of("n", 1, 1)


def test_reused_pid_is_resolved_by_time():
    """Two processes in two slots, one after the other."""
    processes = [
        Process(1, "n", 7, started=0, slot=0, ready=1, end=ProcessEnd(5, "")),
        Process(1, "n", 7, started=6, slot=1, ready=7),
    ]
    lanes = assign_lanes([work("n", 7, 1, 20)], processes)
    assert [lanes.of("n", 7, at) for at in (1, 4, 7, 15)] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("nodes", "slots", "detail", "drawn"), [(4, 2, "slot", 8), (8, 4, "node", 8), (40, 2, "some nodes", 10)]
)
def test_number_of_lanes_is_bounded(nodes, slots, detail, drawn):
    """Each slot is in one lane; nodes with failures have their own lane."""
    processes = [work(f"node-{node}", node * slots + slot, failed=node == 33) for node in range(nodes) for slot in range(slots)]
    lanes = assign_lanes(processes, [], most=10)
    assert (lanes.detail, len(lanes.lanes), lanes.total, lanes.nodes) == (detail, drawn, nodes * slots, nodes)
    assert sum(lane.slots for lane in lanes.lanes) == nodes * slots
    assert {lanes.of(process.node, process.pid, 0.5) for process in processes} == set(range(drawn))
    if nodes > 33:
        assert "node-33" in [lane.node for lane in lanes.lanes]


def test_incomplete_and_unknown_lines_are_skipped(tmp_path):
    """A node may be lost while it writes; another version may write unknown events."""
    (tmp_path / "r2.node-7.processes.jsonl").write_text(
        '{"event":"started","at":1,"process":"a","pid":3,"slot":null}\n'
        '{"event":"sang","at":1}\n[1]\n{"event":"ended","at":9,"process":"unknown"}\n'
        '{"event":"ready","at":2,"process":"a","slot":4,"import_seconds":0.5,"init_seconds":0.2}\n{"event":"en'
    )
    (process,), is_complete = read_processes(tmp_path, nothing)
    state = (process.execution, process.node, process.slot, process.setup_began, process.ready, process.end)
    assert state == (2, "node-7", 4, 1.8, 2, None)
    assert is_complete
    with (tmp_path / "r2.node-7.processes.jsonl").open("a") as file:
        file.write('\n{"event":"left_out","at":10,"reason":"20000 lines are enough"}\n')
    assert [len(read_processes(tmp_path, nothing)[0]), read_processes(tmp_path, nothing)[1]] == [1, False]
    head = "time,cpu_percent,memory_used,memory_total,processes,processes_memory,disk_free\n"
    (tmp_path / "node-0.resources.csv").write_text(f"{head}0,50,1,4,2,1,9\n1,x,1,4,2,1,9\n10,70,3,4,2,1,7\n10,7")
    (tmp_path / "node-1.resources.csv").write_text("nothing\n")
    resources = read_resources(tmp_path, Axis.over([(0, 10)]), nothing)
    assert (resources.cpu.mean[0], resources.cpu.mean[-1], np.nanmax(resources.memory.high)) == (50, 70, 75)
    assert (resources.peaks[0].disk_free, resources.nodes) == (7, 2)
    (tmp_path / "progress.csv").write_text("time,planned,finished,remaining_seconds\n1,10,0,\n2,10,5,1.5\n3,")
    assert [line.remaining_seconds for line in read_progress(tmp_path)[1]] == [None, 1.5]


def test_logs_may_be_missing(tmp_path):
    """Even their folder."""
    missing = tmp_path / "logs"
    assert read_processes(missing, nothing) == ([], True)
    assert read_progress(missing) == {}
    assert read_resources(missing, Axis.over([(0, 1)]), nothing) is None


@given(st.lists(st.floats(1e-5, 1e5), min_size=1, max_size=200))
def test_median_is_accurate_to_the_width_of_a_bin(seconds):
    """The columns of the histogram count every duration."""
    counts = np.zeros((2, 1200), dtype=np.int64)
    for duration in seconds:
        counts[0, min(int((np.log10(duration) + 5) * 100), 1199)] += 1
    low, high = np.quantile(seconds, 0.5, method="lower"), np.quantile(seconds, 0.5, method="higher")
    assert low / 1.03 <= quantile(counts[0], 0.5) <= high * 1.03
    histogram = columns(counts)
    assert sum(column.succeeded for column in histogram) == len(seconds)
    assert len(histogram) <= 48
    assert histogram[0].begins <= min(seconds) * 1.03
    assert max(seconds) <= histogram[-1].stops * 1.03


def test_limits_are_those_of_the_last_execution(tmp_path):
    """With their actual values; -1 and 100 mean no limit."""
    facts = collect(make_run(tmp_path / "run", 50, fail=0.0).directory, nothing)
    by_name = {limit.name: limit for limit in limits(facts)}
    assert (by_name["error_threshold"].allowed, by_name["error_threshold"].actual) == (5, 10)
    assert by_name["error_threshold"].is_exceeded
    assert by_name["allowed_failed_count"].allowed is None
    assert (by_name["allowed_failed_percent"].actual, by_name["allowed_failed_percent"].is_exceeded) == (2, False)


def test_limits_changed_by_a_command_are_shown(tmp_path):
    """With their initial values; applied commands are on the timeline."""
    made = make_run(tmp_path / "run", 50, fail=0.0)
    write_json(
        made.directory.description,
        {**made.directory.metadata(), "config": {"error_threshold": 5, "allowed_failed_percent": 20.0}},
    )
    adjusted(made)
    facts = collect(made.directory, nothing)
    by_name = {limit.name: limit for limit in limits(facts)}
    assert (by_name["error_threshold"].allowed, by_name["error_threshold"].initial) == (20, "5")
    assert by_name["allowed_failed_percent"].initial == ""
    assert not by_name["error_threshold"].is_exceeded
    assert facts.timeline.commands == [(2, pytest.approx(1.0, abs=1e-3)), (3, pytest.approx(2.0, abs=1e-3))]


def test_execution_records_versions_and_config_but_no_secret(tmp_path, scripts):
    """The values of environment variables are not in the ledger."""
    from prefect_parallel_run import ParallelRunConfig

    config = ParallelRunConfig(
        source_directory=str(scripts),
        entry_script="echo.py",
        error_threshold=7,
        output_action="summary_only",
        environment_variables={"TOKEN": "hunter2-hunter2"},
    )
    with Ledger.create(tmp_path / "ledger.sqlite", [1]) as ledger:
        ledger.record(drives="2")
        record_start(ledger, 2, config)
        (started,) = recorded_executions(ledger.metadata())
        assert (started.number, started.ended, started.config["error_threshold"]) == (2, None, 7)
        assert {"python", "prefect_parallel_run", "prefect", "dask", "distributed", "pandas", "pyarrow"} == set(
            started.versions
        )
        record_end(ledger, "cancelled", "because")
        (ended,) = recorded_executions(ledger.metadata())
        assert (ended.status, ended.reason) == ("cancelled", "because")
        assert ended.ended >= ended.began > BEGAN
        assert "hunter2" not in json.dumps(ledger.metadata())


@pytest.mark.parametrize(
    ("work", "piece", "lines"),
    [
        ({"kind": "files", "root": "/a/", "names": ["x", "y", "z"]}, (1, 2), ["/a/y"]),
        ({"kind": "json_lines", "path": "/a.jsonl", "first": 10, "rows": 5}, (1, 2), ["/a.jsonl, record 11"]),
        (
            {"kind": "parquet", "path": "/a.parquet", "row_groups": [2, 3], "start": 4, "stop": 9, "rows": 5},
            None,
            ["/a.parquet, rows 4 to 8 counted from row group 2"],
        ),
        (
            {
                "kind": "tables",
                "rows": 4,
                "tables": [{"kind": "delimited", "path": f"/{name}.csv", "first": 0, "rows": 2} for name in "ab"],
                "partition_key_value": {"store": 7},
            },
            (1, 3),
            ["store = 7", "/a.csv, records 0 to 1", "/b.csv, records 0 to 1", "only items 1 to 2 of the mini-batch"],
        ),
    ],
)
def test_location_of_items_is_readable(work, piece, lines):
    """For every kind of input."""
    assert location_lines(select_items(work, *piece) if piece else work) == lines
