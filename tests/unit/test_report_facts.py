"""What a report is made of: every try is in exactly one place, and the sums are the ledger's."""

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
from prefect_parallel_run.monitoring.report.axis import BINS, Axis, spread
from prefect_parallel_run.monitoring.report.data import collect
from prefect_parallel_run.monitoring.report.lanes import Worked, allot
from prefect_parallel_run.monitoring.report.page import page
from prefect_parallel_run.monitoring.report.places import place_lines
from prefect_parallel_run.monitoring.report.processes import Process, read_processes
from prefect_parallel_run.monitoring.report.samples import read_progress, read_resources
from prefect_parallel_run.monitoring.report.summary import limits
from prefect_parallel_run.monitoring.report.tries import MOST_SEGMENTS, columns, quantile
from prefect_parallel_run.runs.executions import drives, note_drive_begin, note_drive_end
from prefect_parallel_run.runs.failures import causes
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

from ..made_runs import BEGAN, adjusted, make_run

LOST = "INSERT INTO attempts VALUES (?, ?, 'lost', 'node-0', 0, 0.0, 0.0, 'NodeLost', 'x', '', 'l')"
times = st.floats(0, 1e5)


def nothing():
    pass


@given(st.lists(st.tuples(times, st.floats(0, 500)), min_size=1, max_size=30))
def test_every_interval_is_on_the_axis_with_its_whole_length(intervals):
    """What was cut out are pauses, in which nothing went on; time never runs backwards."""
    given = [(start, start + length) for start, length in intervals]
    axis = Axis.over(given)
    starts, stops = axis.places([start for start, _ in given]), axis.places([stop for _, stop in given])
    assert np.allclose(stops - starts, [stop - start for start, stop in given], atol=1e-6)
    assert (starts >= 0).all()
    assert (stops <= axis.seconds + 1e-6).all()
    places = axis.places(sorted(start for start, _ in given))
    assert (np.diff(places) > -1e-6).all()
    whole = axis.ends - axis.begins
    assert axis.seconds + sum(pause.seconds for pause in axis.pauses) == pytest.approx(whole)


def test_nothing_has_no_axis():
    """And a single moment has one."""
    assert Axis.over([]) is None
    assert Axis.over([(5.0, 5.0)]).seconds > 0
    assert Axis.over([(5.0, 5.0), (50.0, 50.0)]).seconds > 0


@given(st.lists(st.tuples(st.integers(0, 2), times, st.floats(0, 2e4)), min_size=1, max_size=40))
def test_what_is_spread_over_bins_sums_up_to_what_there_was(intervals):
    """In every lane, and no bin of a lane has more than all intervals could take of it."""
    axis = Axis.over([(start, start + length) for _, start, length in intervals])
    lanes = np.asarray([lane for lane, _, _ in intervals])
    starts = axis.places([start for _, start, _ in intervals])
    stops = axis.places([start + length for _, start, length in intervals])
    found = spread(axis, lanes, starts, stops, 3)
    assert found.shape == (3, BINS)
    for lane in range(3):
        assert found[lane].sum() == pytest.approx((stops - starts)[lanes == lane].sum(), abs=1e-6)
        assert found[lane].max() <= axis.bin_seconds * max((lanes == lane).sum(), 1) * (1 + 1e-9)
    assert found.min() >= -1e-6


@pytest.mark.parametrize("logs", [True, False])
@pytest.mark.parametrize("mini_batches", [100, MOST_SEGMENTS + 500])
def test_every_try_is_in_one_bin_and_lanes_are_busy_as_long_as_their_tries_took(tmp_path, mini_batches, logs):
    """With the nodes' logs and without, drawn one by one and in bins."""
    made = make_run(tmp_path / "run", mini_batches, fail=0.1, logs=logs)
    facts = collect(made.directory, nothing)
    tries = facts.timeline.tries
    assert tries.dated == made.tries == tries.durations.sum()
    assert tries.failed.sum() == tries.durations[1].sum() == made.failed_tries
    assert tries.busy.sum() == pytest.approx(made.seconds)
    assert sum(tries.outcomes.values()) == made.tries
    assert sum(facts.timeline.kills.values()) == made.kills
    assert (tries.segments is None) == (made.tries > MOST_SEGMENTS)
    if tries.segments is not None:
        assert len({(one.mini_batch, one.attempt) for one in tries.segments}) == made.tries
        assert sum(one.seconds for one in tries.segments) == pytest.approx(made.seconds)
        by_lane = sorted((one.lane, one.begins, one.seconds) for one in tries.segments)
        for (lane, begins, seconds), (other, following, _) in pairwise(by_lane):
            assert lane != other or begins + seconds <= following + 1e-3  # a slot does one thing at a time
    with Ledger(made.directory.ledger) as ledger:
        assert facts.tally == ledger.tally()
    assert len(facts.timeline.lanes.lanes) == 4
    assert bool(facts.timeline.alive.any()) == logs


def test_a_slot_that_is_busy_is_alive(tmp_path):
    """And starts, life and death of its processes do not overlap."""
    facts = collect(make_run(tmp_path / "run", 300, fail=0.1).directory, nothing)
    shown = facts.timeline
    assert (shown.tries.busy <= shown.alive + 1e-6).all()
    assert (shown.alive + shown.starting <= shown.axis.bin_seconds + 1e-6).all()


def test_causes_add_up_to_all_failed_tries(tmp_path):
    """Each with what was in its first mini-batch; those that nothing made good come first."""
    made = make_run(tmp_path / "run", 200, fail=0.1)
    facts = collect(made.directory, nothing)
    assert sum(found.cause.tries for found in facts.causes) == made.failed_tries
    assert sum(found.ended for found in facts.causes) == facts.tally.failed == len(facts.failed)
    assert [found.ended for found in facts.causes] == sorted((found.ended for found in facts.causes), reverse=True)
    first = facts.causes[0]
    number = first.cause.first_mini_batch
    assert first.places[0] == f"/data/images/day={number % 28:02d}/img_{number:06d}_0.jpg"
    assert first.places[-1] == "and 7 more files"
    assert [slow.seconds for slow in facts.slowest] == sorted((slow.seconds for slow in facts.slowest), reverse=True)


def test_tries_of_items_apart_are_counted_everywhere(tmp_path):
    """The card of their cause names the guilty file; one that took long is among the slowest."""
    made = make_run(tmp_path / "run", 40, fail=0.0, logs=False)
    error = {"error_type": "OSError", "error": "truncated", "fingerprint": "t", "node": "node-0", "pid": 1000}
    bad = Receipt.of_failure(7, 1, "raised", items=10, started=BEGAN + 1, seconds=1.0, **error)
    with Ledger(made.directory.ledger) as ledger:
        before = sum(cause.tries for cause in causes(ledger))
        for piece, items in (((4, 5), 1), ((4, 10), 0)):
            ledger.commit_piece(bad._replace(seconds=600.0 + items), piece, items, "succeeded")
    facts = collect(made.directory, nothing)
    assert sum(found.cause.tries for found in facts.causes) == before + 2 == facts.timeline.tries.failed.sum()
    (found,) = (found for found in facts.causes if found.cause.fingerprint == "t")
    assert (found.places, found.cause.failed_items) == (["/data/images/day=07/img_000007_4.jpg"], 1)
    assert [(slow.attempt, slow.items, slow.places) for slow in facts.slowest[:2]] == [
        (0, 1, found.places),
        (0, 6, [*found.places, "and 5 more files"]),
    ]
    words = page(facts, 0.0)
    assert "The first that was found guilty" in words
    assert "apart" in words


def test_a_run_that_was_driven_three_times_has_its_pauses_cut_out(tmp_path):
    """Slots keep their lanes; names are those of the drive's own files."""
    made = make_run(tmp_path / "run", 90, fail=0.0, drives=3)
    facts = collect(made.directory, nothing)
    assert [round(pause.seconds, -2) for pause in facts.timeline.axis.pauses] == [3600, 7200]
    assert len(facts.timeline.lanes.lanes) == 4
    assert [drive.status for drive in facts.drives] == ["interrupted", "interrupted", "succeeded"]
    assert set(facts.progress) == {1, 2, 3}
    assert facts.timeline.processes == 12


def test_what_is_missing_is_missing_and_no_more(tmp_path):
    """A run of an older version, planned and never begun."""
    directory = RunDirectory(tmp_path / "run")
    directory.make()
    with Ledger.create(directory.ledger, [10] * 3) as ledger:
        facts = collect(directory, nothing)
        assert (facts.timeline, facts.plan, facts.status, facts.tally.planned) == (None, None, "planned", 3)
        ledger._connection.execute(LOST, (0, 1))
        facts = collect(directory, nothing)
    assert facts.timeline is None  # nobody knows when that was
    with pytest.raises(OutputError, match="does not exist"):
        collect(RunDirectory(tmp_path), nothing)


def test_a_try_without_a_time_is_told_apart(tmp_path):
    """It is counted, and not drawn."""
    made = make_run(tmp_path / "run", 5, fail=0.0)
    with Ledger(made.directory.ledger) as ledger:
        ledger._connection.execute(LOST, (4, 2))
    tries = collect(made.directory, nothing).timeline.tries
    assert (tries.undated, tries.dated) == (1, 5)


def test_reading_stops_when_it_is_told_to(tmp_path):
    """In the middle of a query as well: whoever cancels a run does not wait for its report."""
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
        endless = ledger.rows("SELECT a.pid FROM attempts a, attempts b WHERE a.pid + b.pid < 0")
        with pytest.raises(sqlite3.OperationalError):
            next(endless)


def worked(node, pid, began=0.0, ended=1.0, failed=0):
    return Worked(node, pid, 10, failed, began, ended)


def test_processes_share_lanes_where_nobody_wrote_down_their_slots():
    """As many as worked at a time; what was lost with its node has a lane of its own."""
    lanes = allot([worked("n", 1, 0, 10), worked("n", 2, 0, 4), worked("n", 3, 5, 9), worked("n", 0, 8, 9)], [])
    assert [lane.label for lane in lanes.lanes] == ["lost with it", "process 1", "process 2"]
    assert lanes.of("n", 2, 1) == lanes.of("n", 3, 6) != lanes.of("n", 1, 1)


def test_a_pid_that_came_twice_is_told_apart_by_time():
    """Two processes of two slots, one after the other."""
    processes = [
        Process(1, "n", "n.0.0", 7, started=0, slot=0, ready=1, ended=5),
        Process(1, "n", "n.1.0", 7, started=6, slot=1, ready=7),
    ]
    lanes = allot([worked("n", 7, 1, 20)], processes)
    assert [lanes.of("n", 7, at) for at in (1, 4, 7, 15)] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("nodes", "slots", "detail", "drawn"), [(4, 2, "slot", 8), (8, 4, "node", 8), (40, 2, "some nodes", 10)]
)
def test_lanes_are_never_too_many(nodes, slots, detail, drawn):
    """Each slot is in one of them; nodes with failures are among those that are shown."""
    done = [worked(f"node-{node}", node * slots + slot, failed=node == 33) for node in range(nodes) for slot in range(slots)]
    lanes = allot(done, [], most=10)
    assert (lanes.detail, len(lanes.lanes), lanes.total, lanes.nodes) == (detail, drawn, nodes * slots, nodes)
    assert sum(lane.slots for lane in lanes.lanes) == nodes * slots
    assert {lanes.of(one.node, one.pid, 0.5) for one in done} == set(range(drawn))
    if nodes > 33:
        assert "node-33" in [lane.node for lane in lanes.lanes]


def test_lines_that_were_cut_short_are_left_out(tmp_path):
    """A node may be lost in the middle of a line; another version may write what we do not know."""
    (tmp_path / "r2.node-7.processes.jsonl").write_text(
        '{"event":"started","at":1,"process":"a","pid":3,"slot":null}\n'
        '{"event":"sang","at":1}\n[1]\n{"event":"ended","at":9,"process":"unknown"}\n'
        '{"event":"ready","at":2,"process":"a","slot":4,"import_seconds":0.5,"init_seconds":0.2}\n{"event":"en'
    )
    (found,), is_all = read_processes(tmp_path, nothing)
    assert (found.drive, found.node, found.slot, found.is_spare, found.ready, found.ended) == (2, "node-7", 4, True, 2, None)
    assert is_all
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


def test_no_logs_at_all(tmp_path):
    """Not even their folder."""
    gone = tmp_path / "logs"
    assert read_processes(gone, nothing) == ([], True)
    assert read_progress(gone) == {}
    assert read_resources(gone, Axis.over([(0, 1)]), nothing) is None


@given(st.lists(st.floats(1e-5, 1e5), min_size=1, max_size=200))
def test_the_median_is_the_median(seconds):
    """To the width of a bin; columns lose nothing."""
    made = np.zeros((2, 1200), dtype=np.int64)
    for one in seconds:
        made[0, min(int((np.log10(one) + 5) * 100), 1199)] += 1
    low, high = np.quantile(seconds, 0.5, method="lower"), np.quantile(seconds, 0.5, method="higher")
    assert low / 1.03 <= quantile(made[0], 0.5) <= high * 1.03
    found = columns(made)
    assert sum(column.succeeded for column in found) == len(seconds)
    assert len(found) <= 48
    assert found[0].begins <= min(seconds) * 1.03
    assert max(seconds) <= found[-1].stops * 1.03


def test_limits_are_those_of_the_last_drive(tmp_path):
    """With what was used of them; -1 and 100 forgive everything."""
    facts = collect(make_run(tmp_path / "run", 50, fail=0.0).directory, nothing)
    found = {limit.name: limit for limit in limits(facts)}
    assert (found["error_threshold"].allowed, found["error_threshold"].actual) == (5, 10)
    assert found["error_threshold"].is_exceeded
    assert found["allowed_failed_count"].allowed is None
    assert (found["allowed_failed_percent"].actual, found["allowed_failed_percent"].is_exceeded) == (2, False)


def test_limits_are_those_that_a_person_changed_them_to(tmp_path):
    """With what they were at first; what was ordered is on the timeline, as far as it was followed."""
    made = make_run(tmp_path / "run", 50, fail=0.0)
    made.directory.describe({**made.directory.facts(), "config": {"error_threshold": 5, "allowed_failed_percent": 20.0}})
    adjusted(made)
    facts = collect(made.directory, nothing)
    found = {limit.name: limit for limit in limits(facts)}
    assert (found["error_threshold"].allowed, found["error_threshold"].at_first) == (20, "5")
    assert found["allowed_failed_percent"].at_first == ""
    assert not found["error_threshold"].is_exceeded
    assert facts.timeline.orders == [(2, pytest.approx(1.0, abs=1e-3)), (3, pytest.approx(2.0, abs=1e-3))]


def test_a_drive_notes_versions_and_configuration_and_no_secret(tmp_path, scripts):
    """The values of environment variables are nowhere in the ledger."""
    from prefect_parallel_run import ParallelRunConfig

    config = ParallelRunConfig(
        source_directory=str(scripts),
        entry_script="echo.py",
        error_threshold=7,
        output_action="summary_only",
        environment_variables={"TOKEN": "hunter2-hunter2"},
    )
    with Ledger.create(tmp_path / "ledger.sqlite", [1]) as ledger:
        ledger.note(drives="2")
        note_drive_begin(ledger, 2, config)
        (begun,) = drives(ledger.facts())
        assert (begun.number, begun.ended, begun.config["error_threshold"]) == (2, None, 7)
        assert {"python", "prefect_parallel_run", "prefect", "dask", "distributed", "pandas", "pyarrow"} == set(begun.versions)
        note_drive_end(ledger, "cancelled", "because")
        (ended,) = drives(ledger.facts())
        assert (ended.status, ended.reason) == ("cancelled", "because")
        assert ended.ended >= ended.began > BEGAN
        assert "hunter2" not in json.dumps(ledger.facts())


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
def test_where_items_are(work, piece, lines):
    """In words, for every kind of work."""
    assert place_lines(work, piece) == lines
