"""Azure ML's jobs and habits, run as they are."""

import logging
from pathlib import Path

import pandas as pd

from prefect_parallel_run import ParallelRunStep
from prefect_parallel_run.azure.load import load

DATA = Path(__file__).parent.parent / "unit" / "data" / "azure"


def test_an_imported_job_runs_end_to_end(tmp_path, caplog):
    """Pipeline job, MLTable, settings file, model and options of the driver: the rows are those that the script made."""
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
    assert "left out" not in caplog.text  # the import has told it, and taken the options out


def test_a_steps_own_arguments_may_have_the_drivers_options(workshop, caplog):
    """They are honoured or warned of, once each, and the script sees them as it does in Azure."""
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
