"""Our blocks are blocks as Prefect's integrations have them, and are found without being imported by hand."""

import os
import re
from pathlib import Path
from urllib.error import URLError

import pytest
from prefect.testing.standard_test_suites import BlockStandardTestSuite

import prefect_parallel_run
from prefect_parallel_run import DaskComputeTarget

from ...interpreter import facts_of

PYPROJECT = Path(prefect_parallel_run.__file__).parents[1] / "pyproject.toml"


class TestDaskComputeTarget(BlockStandardTestSuite):
    """Prefect's own suite."""

    @pytest.fixture
    def block(self):
        return DaskComputeTarget

    def test_has_a_valid_image(self, block):
        """Looked at where there is a network."""
        assert str(block._logo_url).startswith("https://")
        try:
            super().test_has_a_valid_image(block)
        except URLError as error:
            pytest.skip(f"no network: {error}")


def entry_point():
    (found,) = re.findall(r'\[project\.entry-points\."prefect\.collections"\]\n(\w+) = "([\w.]+)"', PYPROJECT.read_text())
    return found


def test_prefect_finds_the_blocks_by_the_entry_point(tmp_path):
    """Server, workers and the look-up of blocks import it: they get the blocks, and none of what is heavy."""
    name, module = entry_point()
    about = tmp_path / "some_plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: some-plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[prefect.collections]\n{name} = {module}\n")
    code = (
        "import sys, importlib.metadata\n"
        "import prefect.blocks.core as core\n"
        "before = set(sys.modules)\n"
        "found, *_ = importlib.metadata.entry_points(group='prefect.collections', name=sys.argv[1])\n"
        "found.load()\n"
        "facts = {'loaded': sorted(set(sys.modules) - before), 'all': list(sys.modules)}\n"
        "facts['block'] = core.Block.get_block_class_from_key('dask-compute-target').__name__\n"
    )
    # Its folder first, so that it is this entry point and not one that is installed.
    facts = facts_of(code, name, PYTHONPATH=os.pathsep.join([str(tmp_path), str(PYPROJECT.parent)]))
    roots = {loaded.split(".")[0] for loaded in facts["loaded"]}
    assert not {"dask", "distributed", "pandas", "pyarrow", "fsspec"} & roots
    assert not {"prefect_parallel_run.step", "prefect_parallel_run.config.model"}.intersection(facts["all"])
    assert facts["block"] == "DaskComputeTarget"


def test_the_version_is_the_package_s():
    """As Prefect's integrations tell theirs."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", prefect_parallel_run.__version__)
