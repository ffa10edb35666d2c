"""Mini-batches run while the input is still being listed, and what becomes of a run that ends meanwhile."""

from collections import Counter
from pathlib import Path

import pytest

from prefect_parallel_run import InputError, LimitExceededError
from prefect_parallel_run.cli import main

from ..conftest import pause_listing, wait_until
from .conftest import ledger

pytestmark = pytest.mark.usefixtures("shared_cluster")


@pytest.fixture
def slow_listing(monkeypatch):
    """Have the listing stop before file 50 until *fact* is true; then call *end*."""

    def slow_down(fact, end=lambda: None):
        pause_listing(monkeypatch, lambda: (wait_until(fact), end()))

    yield slow_down
    monkeypatch.undo()


def fail():
    raise InputError("f050.txt", "has vanished while it was listed")


def test_the_first_mini_batches_run_while_the_input_is_listed(workshop, slow_listing, caplog):
    """What is planned is run; the rest follows; the result is that of a plan made beforehand."""
    slow_listing(lambda: len(workshop.invocations()) == 5)
    result = workshop.step()()
    assert "5 mini-batches, 50 items so far, the input is still being listed" in caplog.text
    assert (result.mini_batches_total, result.items_succeeded) == (10, 100)
    assert Path(result.output_file).read_text().split() == [f"f{number:03d}.txt" for number in range(100)]
    assert workshop.invocations() == [(number, 1) for number in range(10)]
    assert main(["verify", result.run_directory]) == 0
    assert not Path(result.run_directory, "plan.spool").exists()


@pytest.mark.parametrize("how", ["again", "resume"])
def test_a_run_that_ends_while_it_is_planned_goes_on(workshop, slow_listing, monkeypatch, how, capsys):
    """Nothing is published, what is finished is kept, and the plan is completed where the inputs are the same."""
    slow_listing(lambda: len(workshop.invocations()) == 5, fail)
    with pytest.raises(InputError, match="vanished"):
        workshop.step()()
    (run,) = (path.parent for path in workshop.output.glob("_parallel_run/*/run.json"))
    assert not list(workshop.output.glob("*.txt"))
    assert main(["show", str(run)]) == 0
    assert "interrupted (input f050.txt: has vanished" in capsys.readouterr().out
    done = ledger(run, "SELECT mini_batch FROM mini_batches WHERE state='succeeded'")
    monkeypatch.undo()
    if how == "again":
        assert workshop.step()().run_id == run.name
    else:
        assert main(["resume", str(run)]) == 0
    tries = Counter(index for index, _ in workshop.invocations())
    assert all(tries[index] == 1 for (index,) in done)
    assert (workshop.output / "parallel_run_step.txt").read_text().split() == [f"f{number:03d}.txt" for number in range(100)]
    assert main(["verify", str(run)]) == 0
    assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_a_run_that_ends_while_it_is_planned_and_whose_input_changes(workshop, slow_listing, monkeypatch, capsys):
    """Resume refuses; accepted changes keep what is the same; the same flow begins anew."""
    slow_listing(lambda: len(workshop.invocations()) == 5, fail)
    with pytest.raises(InputError):
        workshop.step()()
    monkeypatch.undo()
    (run,) = (path.parent for path in workshop.output.glob("_parallel_run/*/run.json"))
    done = {index for (index,) in ledger(run, "SELECT mini_batch FROM mini_batches WHERE state='succeeded'")}
    (workshop.files / "f031.txt").write_text("another text")
    assert main(["resume", str(run)]) == 1
    assert "the input files differ" in capsys.readouterr().err
    before = Counter(workshop.invocations())
    assert main(["resume", str(run), "--accept-changes"]) == 0
    again = Counter(workshop.invocations()) - before
    assert {index for index, _ in again} == (set(range(10)) - done) | {3}
    assert (workshop.output / "parallel_run_step.txt").read_text().split() == [f"f{number:03d}.txt" for number in range(100)]


def test_nothing_is_left_of_an_input_that_cannot_be_planned(workshop):
    """Where nothing has run yet."""
    with pytest.raises(InputError, match="does not exist"):
        workshop.step(inputs=workshop.folder / "absent")()
    assert list((workshop.output / "_parallel_run").iterdir()) == []


def test_a_limit_ends_planning_too(workshop, slow_listing):
    """The listing is not waited for; nothing of it goes on."""
    slow_listing(lambda: workshop.output.joinpath("never").exists())
    step = workshop.step("poison.py", "--how", "raise", "--poison", "3", run_max_try=1, error_threshold=0)
    with pytest.raises(LimitExceededError, match="10 failed items, 0 allowed"):
        step()
    workshop.output.joinpath("never").touch()  # lets the thread go
