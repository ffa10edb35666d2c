"""Azure ML's jobs and scripts run unchanged."""

import json
import logging
import shutil
from pathlib import Path

import pandas as pd
import pytest

from prefect_parallel_run import InputError, ParallelRunStep, TabularDataset
from prefect_parallel_run.azureml.load import load

pytestmark = pytest.mark.usefixtures("shared_cluster")

DATA = Path(__file__).parent.parent / "unit" / "data" / "azure"


def test_an_imported_job_runs_end_to_end(tmp_path, caplog):
    """Pipeline job, MLTable, settings file, model and options of the driver: the result has the script's rows."""
    imported = load(DATA / "iris" / "pipeline.yml", {"${{outputs.named}}": str(tmp_path / "named.csv")})
    (step,) = imported.steps
    with caplog.at_level(logging.WARNING):
        result = ParallelRunStep(**step.step_arguments())()
    assert result.output_file == str(tmp_path / "named.csv")
    assert result.mini_batches_total > 1
    flowers = pd.read_csv(DATA / "iris" / "flowers" / "flowers.csv", sep=";")
    found = pd.read_csv(result.output_file)
    assert found["number"].tolist() == flowers["number"].tolist()
    expected = ["setosa" if length < 2.45 else "virginica" for length in flowers["petal_length"]]
    assert found["kind"].tolist() == expected
    assert set(found["word"]) == {"hello"}
    assert "left out" not in caplog.text  # the import has reported them and removed the options


def test_a_steps_arguments_can_have_driver_options(workshop, caplog):
    """Each is applied or causes one warning, and the script sees them as in Azure."""
    source = workshop.folder / "source"
    source.mkdir()
    script = "import sys\nimport pandas as pd\ndef run(batch):\n    return pd.DataFrame({'a': sys.argv[1:5] * len(batch)})\n"
    (source / "script.py").write_text(script)
    (source / "parallel_run_step.settings.json").write_text('{"append_row": {"pandas.DataFrame.to_csv": {"sep": ","}}}')
    arguments = ("--append_row_dataframe_header", "True", "--task_overhead_timeout", "9")
    fields = {"source_directory": str(source), "process_count_per_node": 1, "mini_batch_size": 100}
    with caplog.at_level(logging.WARNING):
        result = workshop.step("script.py", *arguments, **fields)()
    found = pd.read_csv(result.output_file)
    assert (list(found.columns), found["a"].tolist()[:4], len(found)) == (["a"], list(arguments), 400)
    warnings = [record.getMessage() for record in caplog.records if getattr(record, "action", None) == "azure"]
    assert [words.partition(":")[0] for words in warnings] == ["--task_overhead_timeout 9"]


def test_a_scoring_script_runs_unchanged(workshop):
    """Registered model, package with relative imports, dotted name, file beside it, settings file; again for another model."""
    source, model = workshop.folder / "source", workshop.folder / "borders.json"
    shutil.copytree(workshop.scripts / "azure", source)
    settings = {"append_row": {"pandas.DataFrame.to_csv": {"sep": ";", "float_format": "%.2f"}}}
    (source / "parallel_run_step.settings.json").write_text(json.dumps(settings))
    flowers = DATA / "iris" / "flowers" / "flowers.csv"
    inputs = TabularDataset.from_delimited_files([str(flowers)], delimiter=";")
    fields = {"source_directory": str(source), "mini_batch_size": "1KB", "inputs": inputs, "models": {"iris": str(model)}}
    arguments = ("--model_name", "iris", "--append_row_dataframe_header", "True")
    step = workshop.step("scoring.score", *arguments, **fields)
    with pytest.raises(InputError, match="model iris does not exist"):
        step()
    model.write_text('{"border": 2.45}')
    result = step()
    expected = pd.read_csv(flowers, sep=";")[["number", "petal_length"]]
    expected["kind"] = ["versicolor" if length >= 2.45 else "setosa" for length in expected["petal_length"]]
    assert result.mini_batches_total > 1
    assert Path(result.output_file).read_text() == expected.to_csv(sep=";", index=False, float_format="%.2f")
    assert step().reused
    model.write_text('{"border": 3.0001}')
    assert not step().reused


def test_a_training_script_runs_unchanged(workshop):
    """Arguments at import, with a list at their end; files beside the result; metrics of every process in the logs."""
    folder = workshop.folder / "sales"
    folder.mkdir()
    for store in range(1000, 1005):
        weeks = pd.DataFrame({"Week": range(6), "Store": store, "Quantity": range(store, store + 6)})
        weeks.to_csv(folder / f"{store}_dominicks.csv", index=False)
    arguments = ("--target_column", "Quantity", "--drop_columns", "Week", "Store")
    fields = {"source_directory": str(workshop.scripts / "azure"), "mini_batch_size": 1, "error_threshold": 0}
    result = workshop.step("train_many.py", *arguments, inputs=folder, **fields)()
    rows = [line.split() for line in Path(result.output_file).read_text().splitlines()]
    assert rows == [[f"{store}_dominicks", f"{store + 2.5}"] for store in range(1000, 1005)]
    model = json.loads((workshop.output / "models" / "1003_dominicks.json").read_text())
    assert model["columns"] == ["Quantity"]
    logs = Path(result.run_directory, "logs").glob("*.metrics.jsonl")
    lines = [line for path in logs for line in path.read_text().splitlines()]
    metrics = {metric["name"]: metric for metric in map(json.loads, lines)}
    assert metrics["1004_dominicks_mean"]["value"] == 1006.5
    assert metrics["1004_dominicks_mean"]["mini_batch"] == 4
    assert len(lines) == 15


def test_a_run_finishes_if_every_process_asks_to_stop(workshop):
    """On every first attempt; the last process is replaced each time, and every mini-batch succeeds once."""
    arguments = ("--log", str(workshop.log), "--code", "Retry.StopProcess", "--at", *map(str, range(10)))
    result = workshop.step("asks.py", *arguments, source_directory=str(workshop.scripts / "azure"))()
    assert (result.mini_batches_succeeded, result.rows) == (10, 100)
    runs = [line.split()[1] for line in workshop.log.read_text().splitlines() if line.startswith("run ")]
    assert sorted(runs) == sorted([str(number) for number in range(10)] * 2)
