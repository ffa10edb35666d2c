"""Prefect's temporary server that does not start in time: the error says what to do."""

import pytest

from ..interpreter import failure_of

STARTS = {
    "step": "ParallelRunStep('s', ParallelRunConfig(entry_script=__file__, error_threshold=0, output_action='summary_only'))()",
    "flow": "parallel_run(name='s', inputs='.', config={})",
}


@pytest.mark.parametrize("what", STARTS)
def test_the_error_says_what_to_do(what, tmp_path):
    """Whether a step or a ready-made flow is called; no server starts within no time."""
    script = tmp_path / "starts.py"
    script.write_text(
        f"from prefect_parallel_run import *\nfrom prefect_parallel_run.flows import parallel_run\n{STARTS[what]}"
    )
    server = {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "0"}
    last_line = failure_of(str(script), PREFECT_API_URL="", **server)
    assert last_line.startswith("RuntimeError: Timed out while attempting to connect to ephemeral Prefect API server.")
    assert "prefect server start" in last_line
    assert "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=180" in last_line
