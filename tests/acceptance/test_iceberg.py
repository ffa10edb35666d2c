"""Steps over Iceberg tables: one snapshot per run, in flows, on the command line and in a store."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg import catalog as catalogs
from pyiceberg.utils.config import Config

from prefect_parallel_run import TabularDataset
from prefect_parallel_run.cli import main

from .stores.conftest import s3, s3_server  # noqa: F401  fixtures
from .test_readme import ROOT, run

GUIDE = (ROOT / "docs" / "guides" / "iceberg.md").read_text()


def test_the_example_of_the_guide(tmp_path):
    """As it is printed."""
    (configuration,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    script, flow = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / ".pyiceberg.yaml").write_text(configuration)
    (tmp_path / "price.py").write_text(script)
    (tmp_path / "flow.py").write_text(flow)
    ended = run("flow.py", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"input_0: reading version \d+ of the table", ended.stderr)
    lines = (tmp_path / "out" / "totals.csv").read_text().splitlines()
    assert lines[0] == "price,count,total"
    assert sorted(lines[1:]) == ["0.5,3,1.5", "2.5,4,10.0"]


@pytest.fixture
def load(monkeypatch):
    """Configures the catalog ``local`` and returns it."""

    def configured(**properties):
        for name, value in properties.items():
            monkeypatch.setenv(f"PYICEBERG_CATALOG__LOCAL__{name}", value)
        monkeypatch.setattr(catalogs, "_ENV_CONFIG", Config())  # it was read when pyiceberg was imported
        return catalogs.load_catalog("local")

    return configured


def create(catalog):
    catalog.create_namespace("sales")
    rows = pa.table({"n": range(4), "k": ["a", "b", "c", None]})
    table = catalog.create_table("sales.orders", rows.schema)
    table.append(rows)
    return table


ROWS = ["0 a 2", "1 b 2", "2 c 2", "3  2"]


def step(workshop, snapshot_id=None, **fields):
    dataset = TabularDataset.from_iceberg_table("local.sales.orders", snapshot_id)
    return workshop.step("rows_of_table.py", inputs=dataset, error_threshold=0, process_count_per_node=1, **fields)


def receipt_of(result):
    return json.loads(Path(result.receipt).read_text())


def lines_of(result):
    return Path(result.output_file).read_text().splitlines()


def test_a_commit_runs_again_and_no_commit_reuses(workshop, load, capsys):
    """The earlier snapshot can still be read, with its columns, also from the command line."""
    folder = workshop.folder
    with load(URI=f"sqlite:///{folder}/catalog.db", WAREHOUSE=f"file://{folder}/warehouse") as catalog:
        table = create(catalog)
        first = table.current_snapshot().snapshot_id
        result = step(workshop)()
        assert (lines_of(result), receipt_of(result)["table_versions"]) == (ROWS, {"input_0": first})
        assert step(workshop)().reused
        table.overwrite(pa.table({"n": [100], "k": ["new"]}))
        with table.update_schema() as update:
            update.rename_column("k", "key")
        again = step(workshop)()
        assert (lines_of(again), again.reused) == (["100 new 2"], False)
        assert lines_of(step(workshop, first, output=folder / "old")()) == ROWS
        config = folder / "c.yml"
        workshop.config("rows_of_table.py", error_threshold=0).save_to_yaml(config)
        options = ["--format", "iceberg", "--input", "local.sales.orders", "--table-version", str(first)]
        assert main(["plan", str(config), *options]) == 0
        assert f"note: input_0: version {first} of the table" in capsys.readouterr().out
        assert main(["run", str(config), *options, "--output", str(folder / "again")]) == 0
        assert (folder / "again" / "parallel_run_step.txt").read_text().splitlines() == ROWS
        assert main(["plan", str(config), "--format", "iceberg", "--input", "sales.orders"]) == 2
        assert "expected the name of a table as CATALOG.NAMESPACE.TABLE, got 'sales.orders'" in capsys.readouterr().err


def test_a_table_in_a_store(workshop, load, s3):  # noqa: F811  a fixture
    """Its files are read by URL."""
    uri = f"sqlite:///{workshop.folder}/catalog.db"
    with load(URI=uri, WAREHOUSE="s3://bucket/warehouse", S3__ENDPOINT=f"http://127.0.0.1:{s3.proxy.target}") as catalog:
        table = create(catalog)
        table.append(pa.table({"n": [4], "k": ["d"]}))
        result = step(workshop)()
        assert sorted(lines_of(result)) == sorted([*ROWS, "4 d 2"])
