"""The flow process stays small however many mini-batches there are."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST = 25  #: MB; 10 are usual, 34 to 46 were when the messages of leases, and Arrow's buffers, were kept


def made(folder, number):
    folder.mkdir()
    for index in range(number):
        os.close(os.open(folder / f"{index:07d}", os.O_CREAT | os.O_WRONLY))
    return str(folder)


def test_fifty_thousand_mini_batches_take_hardly_more_memory_than_a_thousand(tmp_path, scripts):
    """In a process of its own, which has run one small step already: what is made once, on first use, is there by then."""
    from prefect.settings import PREFECT_API_URL

    command = [sys.executable, str(Path(__file__).with_name("held_flow.py")), str(scripts)]
    command += [made(tmp_path / "few", 1_000), made(tmp_path / "many", 50_000), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": PREFECT_API_URL.value()}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout.splitlines()[-1])
    assert found["succeeded"] == 50_000
    assert not found["pandas"], "seconds of import, and tens of MB, that only tables need"
    assert found["peak"] - found["before"] < MOST, found
