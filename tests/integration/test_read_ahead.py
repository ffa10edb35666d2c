"""A child reads ahead in a thread: the rows are the same, and the script may fork."""

import json
import os

import pandas as pd

from prefect_parallel_run import TabularDataset
from prefect_parallel_run.child import read_ahead
from prefect_parallel_run.child.read_ahead import ReadAhead
from prefect_parallel_run.child.reading import Reader
from prefect_parallel_run.planning.inputs import normalize_inputs
from prefect_parallel_run.planning.plan import Plan

from ..plans import write_plan
from ..slow_reader import SlowReader


def test_a_fork_waits_for_the_thread(monkeypatch, tmp_path):
    """So that the new process finds no library in the middle of a call."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(read_ahead, "_SHORTEST", 0.0)
    monkeypatch.setattr(read_ahead, "_FORK_WAIT", 300.0)
    pd.DataFrame({"a": range(10)}).to_parquet(tmp_path / "t.parquet")
    (work,) = [json.loads(cut.work) for cut in TabularDataset.from_parquet_files(tmp_path / "t.parquet").cuts(1 << 20)]
    reader = SlowReader()
    ReadAhead(reader, lambda: [1, 1, work]).read(work)
    reader.entered.add_done_callback(lambda _: reader.may_end.set_result(None))
    process = os.fork()
    if not process:
        os._exit(0 if reader.has_ended else 1)
    assert os.waitpid(process, 0)[1] == 0


def test_a_fork_does_not_wait_for_a_store_that_hangs(monkeypatch, tmp_path):
    """Nor do the forks after it, such as those of a pool."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(read_ahead, "_SHORTEST", 0.0)
    pd.DataFrame({"a": range(10)}).to_parquet(tmp_path / "t.parquet")
    (work,) = [json.loads(cut.work) for cut in TabularDataset.from_parquet_files(tmp_path / "t.parquet").cuts(1 << 20)]
    reader = SlowReader()
    ahead = ReadAhead(reader, lambda: [1, 1, work])
    ahead.read(work)
    reader.entered.result(300)
    for seconds in (0.01, 3600.0):
        monkeypatch.setattr(read_ahead, "_FORK_WAIT", seconds)
        process = os.fork()
        if not process:
            os._exit(1 if reader.has_ended else 0)
        assert os.waitpid(process, 0)[1] == 0
    reader.may_end.set_result(None)
    pd.testing.assert_frame_equal(ahead.read(work), Reader().read(work))


def test_a_script_that_forks_gets_all_rows(bench, tmp_path):
    """Its processes read Parquet files of their own while the next mini-batch is prepared."""
    pd.DataFrame({"number": range(4_000), "word": "word"}).to_parquet(tmp_path / "t.parquet", row_group_size=100)
    script = tmp_path / "forks.py"
    script.write_text(
        "import multiprocessing, threading\n"
        "import pandas as pd\n"
        f"PATH = {str(tmp_path / 't.parquet')!r}\n"
        "def total(numbers):\n"
        "    return sum(numbers) + pd.read_parquet(PATH).number.sum()\n"
        "def run(frame):\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "        parts = pool.map(total, [frame.number[::2], frame.number[1::2]])\n"
        "    assert sum(parts) == frame.number.sum() + 2 * sum(range(4_000))\n"
        "    return [f'{n} {threading.active_count()}' for n in frame.number]\n"
    )
    dataset = TabularDataset.from_parquet_files(tmp_path / "t.parquet").as_named_input("t")
    write_plan(normalize_inputs([dataset]), 1_000, bench.run / "plan.parquet")
    plan = Plan(bench.run / "plan.parquet")
    works = [text.encode() for text in plan.works(0, plan.summary.mini_batches)]
    slot = bench.slot(str(script), environment_variables={"OMP_NUM_THREADS": "2"}, modules=("pandas", "pyarrow.parquet"))
    receipts = bench.attempt(slot, works)
    rows = [row.split() for row in bench.rows(receipts)]
    assert [int(number) for number, _ in rows] == list(range(4_000))
    assert max(int(threads) for _, threads in rows) > 1  # the thread was there
