"""References in a configuration to secrets and compute targets in Prefect."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("shared_cluster")

SECRET = "correct-horse-battery"


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "code" / "tells_length.py"
    path.parent.mkdir()
    path.write_text("import os\ndef run(mini_batch):\n    return [len(os.environ['TOKEN'])] * len(mini_batch)\n")
    return str(path)


def test_environment_variables_can_refer_to_secrets(workshop, script):
    """They are resolved when the step runs and never written; another value makes another run."""
    from prefect.blocks.system import Secret

    Secret(value=SECRET).save("token", overwrite=True)
    variables = {"TOKEN": "Bearer {{ prefect.blocks.secret.token }}"}
    step = workshop.step(script, source_directory=None, environment_variables=variables)
    result = step()
    assert set(Path(result.output_file).read_text().split()) == {str(len(f"Bearer {SECRET}"))}
    for path in workshop.output.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in repr(step)
    assert step().reused
    Secret(value="x").save("token", overwrite=True)
    again = step()
    assert not again.reused
    assert set(Path(again.output_file).read_text().split()) == {str(len("Bearer x"))}


def test_a_missing_secret_is_an_error(workshop, script):
    """It names the field and the block."""
    variables = {"TOKEN": "{{ prefect.blocks.secret.no-such-block }}"}
    with pytest.raises(ValueError, match=r"environment_variables\['TOKEN'\]: not found in Prefect: .*no-such-block"):
        workshop.step(script, source_directory=None, environment_variables=variables)()


def test_a_missing_variable_is_an_error(workshop, script):
    """Prefect would replace the reference by nothing."""
    from prefect.variables import Variable

    Variable.set("region", "north", overwrite=True)
    variables = {"TOKEN": "{{ prefect.variables.region }}-{{ prefect.variables.no_such_name }}"}
    with pytest.raises(ValueError, match=r"environment_variables\['TOKEN'\]: not found in Prefect: variable 'no_such_name'; "):
        workshop.step(script, source_directory=None, environment_variables=variables)()
    variables = {"TOKEN": "{{ prefect.variables.region }}"}
    result = workshop.step(script, source_directory=None, environment_variables=variables)()
    assert set(Path(result.output_file).read_text().split()) == {str(len("north"))}


def test_a_block_holds_a_compute_target(workshop):
    """Registered from the command line, saved, loaded, or referenced; its values are not written to the run directory."""
    from prefect.settings import PREFECT_API_URL

    from prefect_parallel_run import DaskComputeTarget

    command = [sys.executable, "-m", "prefect", "block", "register", "-m", "prefect_parallel_run"]
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()}
    registered = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert "Dask Compute Target" in registered.stdout, registered.stderr
    block = DaskComputeTarget(cluster_class="distributed.LocalCluster", cluster_kwargs={"silence_logs": 50})
    block.save("here", overwrite=True)
    for target in (DaskComputeTarget.load("here"), "{{ prefect.blocks.dask-compute-target.here }}", block.compute_target()):
        step = workshop.step(compute_target=target, process_count_per_node=1, allow_reuse=False)
        assert len(Path(step().output_file).read_text().split()) == 100
    named = workshop.config(compute_target=DaskComputeTarget.load("here"))
    assert named.compute_target == "{{ prefect.blocks.dask-compute-target.here }}"


def test_a_block_without_a_target_is_refused(workshop):
    """When the configuration is created."""
    from prefect_parallel_run import DaskComputeTarget

    with pytest.raises(ValueError, match="a compute target is exactly one of address, scheduler_file and cluster_class"):
        workshop.config(compute_target=DaskComputeTarget())
