"""The arithmetic of the benchmarks, and the verdicts of their gate."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def measure(monkeypatch):
    """The module; the suite is run as a program and lies on no path."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("measure")


@pytest.fixture
def table(measure):
    """A table in which we are twice as slow as a peer."""
    return measure.Table(workload="no-op", case="few", unit="s", values={measure.OURS: [9.0, 4.0, 1.0], "peer": [2.0]})


def test_ratios_are_those_of_medians(table, measure):
    """One slow round must not change what a figure says."""
    assert table.ratio("peer") == 0.5
    assert table.ratio(measure.OURS) == 1.0


def test_a_table_without_its_baseline_has_no_ratios(measure):
    """We may be left out by --only; the figures are worth showing all the same."""
    assert measure.Table(workload="w", case="c", unit="s", values={"peer": [2.0]}).ratio("peer") is None


@pytest.mark.parametrize(("bound", "kept"), [(1.9, False), (2.0, True), (2.1, True)])
def test_a_ratio_over_its_bound_fails(table, measure, bound, kept):
    """Ours divided by the peer's is 2: the bound itself is allowed."""
    (verdict,) = measure.judge([measure.Bound(table="no-op, few: s", peer="peer", at_most=bound)], [table])
    assert verdict.kept is kept
    assert str(verdict).startswith("ok" if kept else "FAILED")
    assert "prefect_parallel_run ÷ peer is 2" in str(verdict)


@pytest.mark.parametrize(("bound", "kept"), [(2.1, False), (2.0, True), (1.9, True)])
def test_a_ratio_under_its_bound_fails_where_more_is_better(table, measure, bound, kept):
    """The share of the time spent in run() must not fall."""
    (verdict,) = measure.judge([measure.Bound(table="no-op, few: s", peer="peer", at_least=bound)], [table])
    assert verdict.kept is kept


@pytest.mark.parametrize(("title", "peer"), [("no-op, many: s", "peer"), ("no-op, few: s", "another")])
def test_a_bound_that_nothing_was_measured_for_fails(table, measure, title, peer):
    """A renamed workload or peer would otherwise open the gate for good."""
    (verdict,) = measure.judge([measure.Bound(table=title, peer=peer, at_most=1e9)], [table])
    assert not verdict.kept
    assert "was not measured" in str(verdict)


def test_engines_take_turns_and_slow_ones_have_fewer_rounds(measure):
    """Noise that comes and goes hits all alike; a peer that takes minutes is run once."""
    now, order = [0.0], []

    def engine(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds
            return {"s": seconds}

        return run

    engines = {"quick": engine("quick", 1.0), "slow": engine("slow", 60.0)}
    found, failed = measure.in_turn(engines, 3, patience=10.0, clock=lambda: now[0])
    assert order == ["quick", "slow", "quick", "quick"]
    assert [len(found[name]) for name in engines] == [3, 1]
    assert failed == {}


def test_an_engine_that_fails_is_named_and_the_others_go_on(measure):
    """A peer's defect must not cost the figures of all others, nor be overlooked."""

    def fails():
        raise measure.EngineFailedError("no room")

    found, failed = measure.in_turn({"bad": fails, "good": lambda: {"s": 1.0}}, 2, patience=10.0)
    (table,) = measure.tables("w", "c", found, failed=failed)
    assert table.values == {"good": [1.0, 1.0]}
    assert table.failed == {"bad": "no room"}


def test_every_stored_bound_can_be_read(measure):
    """A bound has one limit, and is unique."""
    bounds = [measure.Bound(**entry) for entry in json.loads((BENCHMARKS / "gate.json").read_text())]
    assert all((bound.at_most is None) != (bound.at_least is None) for bound in bounds)
    assert len({(bound.table, bound.ours, bound.peer) for bound in bounds}) == len(bounds)


def test_a_table_is_shown_with_what_was_left_out(table, measure):
    """A reader must see which engines are missing, and why."""
    show = importlib.import_module("show")
    text = show.as_text(measure.Table(workload="w", case="c", unit="s", values=table.values, left_out={"Ray": "not there"}))
    assert "▸ prefect_parallel_run" in text
    assert "Ray: left out, not there" in text
