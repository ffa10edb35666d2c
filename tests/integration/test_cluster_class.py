"""Cluster classes that do as they like: they hang, or hear of no cancelling."""

import sys
import threading
from concurrent.futures import Future

import pytest

from prefect_parallel_run.compute.base import Request
from prefect_parallel_run.compute.cluster_class import ClassTarget
from prefect_parallel_run.errors import ComputeTargetError

MODULE = """
import threading

begun, gate, closed = threading.Event(), threading.Event(), threading.Event()

class Hangs:
    def __init__(self, **arguments):
        begun.set()
        assert gate.wait(60)

    def close(self):
        closed.set()
"""


@pytest.fixture
def hangs(tmp_path, monkeypatch):
    """The module of a cluster class whose constructor waits for `gate`."""
    (tmp_path / "clusters_that_hang.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    target = ClassTarget("clusters_that_hang.Hangs", {}, allow_insecure=True)
    return target, sys.modules.pop("clusters_that_hang")


def test_a_constructor_that_hears_of_no_cancelling_is_left_behind(hangs, monkeypatch, caplog):
    """The step ends; what has been opened in the end is closed all the same, and a person is told meanwhile."""
    monkeypatch.setattr("prefect_parallel_run.compute.cluster_class._GRACE", 0.0)
    target, module = hangs
    cancelled = threading.Event()
    threading.Thread(target=lambda: module.begun.wait(60) and cancelled.set()).start()
    request = Request(nodes=1, at_least=None, slots=1, timeout=1000.0)
    with (
        pytest.raises(ComputeTargetError, match="it cannot be opened: nobody waits for it any more"),
        target.open(request, cancelled, Future()),
    ):
        raise AssertionError("it was opened")
    assert "close it by hand" in caplog.text
    assert not module.closed.is_set()
    module.gate.set()
    assert module.closed.wait(60)
