"""Entry scripts with the habits of Azure's users, each run in a process as it is."""

import json
from pathlib import Path

import pandas as pd
import pytest

from prefect_parallel_run.node.node import Node
from prefect_parallel_run.node.slot import RecallRequest, SlotRetiredError, SlotUnusableError, Work

from ..interpreter import facts_of
from .conftest import wait_until
from .test_recall import AtWork

HOUR = "3600"
SCRIPTS = Path(__file__).parent.parent / "scripts" / "azure"


class Call:
    """A line that asks.py has written."""

    def __init__(self, line):
        what, index, pid, at = line.split()
        self.what, self.index, self.pid, self.at = what, int(index), int(pid), float(at)


def asks(bench, code, *at, delay="0", **changes):
    """A slot whose script asks for *code* in the mini-batches *at*."""
    options = ("--code", code) if code else ()
    arguments = ("--log", str(bench.log), *options, "--delay", delay, "--at", *map(str, at))
    return bench.slot(str(SCRIPTS / "asks.py"), *arguments, **changes)


def calls(bench):
    return [Call(line) for line in bench.log.read_text().splitlines()]


def outcomes(receipts):
    return [(receipt.mini_batch, receipt.outcome) for receipt in receipts]


def expected(count, *raised):
    return [(index, "raised" if index in raised else "succeeded") for index in range(count)]


def test_no_retry_prevents_further_attempts(bench, files):
    """And nothing else: the process continues."""
    receipts = bench.attempt(asks(bench, "Retry.NoRetry", 3), bench.works(files))
    assert outcomes(receipts) == expected(10, 3)
    assert [receipt.final for receipt in receipts if receipt.outcome == "raised"] == [True]
    assert receipts[3].error_type == "azureml.exceptions.ParallelRunException"
    assert receipts[3].error == "the service is busy"
    assert len({call.pid for call in calls(bench)}) == 1


@pytest.mark.parametrize("code", ["Retry.Sleep", None, "Retry.RestartProcess"])
def test_sleep_delays_the_next_mini_batch(bench, files, code):
    """In this process or its replacement, even beyond run_invocation_timeout, which applies to run()."""
    slot = asks(bench, code, 3, delay="5.5", run_invocation_timeout=5.0)
    receipts = bench.attempt(slot, bench.works(files))
    assert outcomes(receipts) == expected(10, 3)
    assert not receipts[3].final
    runs = [call for call in calls(bench) if call.what == "run"]
    assert runs[4].at - runs[3].at >= 5.5
    assert receipts[4].seconds < 5.5  # the wait is not part of the attempt
    assert (runs[4].pid == runs[3].pid) == (code != "Retry.RestartProcess")


def test_a_pausing_process_returns_its_mini_batches(bench, files):
    """Other processes need not wait."""
    work = AtWork(bench, asks(bench, "Retry.Sleep", 2, delay=HOUR), bench.works(files))
    wait_until(lambda: bench.log.exists() and len(calls(bench)) == 3)
    assert work.recall.request(at_once=False).result(300) == 3
    assert work.end() == expected(3, 2)


def test_restart_process_replaces_the_process(bench, files):
    """After its mini-batch, with shutdown(), each time; no other mini-batch is charged or run twice."""
    slot = asks(bench, "Retry.RestartProcess", 3, 4, 9)
    receipts = bench.attempt(slot, bench.works(files))
    assert outcomes(receipts) == expected(10, 3, 4, 9)
    assert [call.index for call in calls(bench) if call.what == "run"] == list(range(10))
    pids = [call.pid for call in calls(bench) if call.what == "run"]
    assert [len(set(pids[:4])), len(set(pids[4:5])), len(set(pids[5:])), len(set(pids))] == [1, 1, 1, 3]
    assert slot._started == 3
    assert outcomes(bench.attempt(slot, bench.works(files), attempt=2)) == expected(10)
    assert slot.shut_down() == ""
    assert len([call for call in calls(bench) if call.what == "shutdown"]) == 4


def test_stop_process_retires_the_slot(bench, files):
    """Unstarted mini-batches have no receipt, so other slots run them."""
    slot = asks(bench, "Retry.StopProcess", 3)
    slot._may_retire = lambda: True
    receipts: list[tuple] = []
    lines = [Work(i, 1, b"[%d,1,%b]\n" % (i, work)) for i, work in enumerate(bench.works(files))]
    with pytest.raises(SlotRetiredError):
        slot.run(lines, receipts, RecallRequest())
    assert [receipt[0] for receipt in receipts] == [0, 1, 2, 3]
    assert slot._child is None


def test_the_last_process_of_a_node_stays(bench, files):
    """The first of two that asks is retired; the other is replaced, however often it asks."""
    arguments = ("--log", str(bench.log), "--code", "Retry.StopProcess", "--at", *map(str, range(10)))
    settings = bench.settings(str(SCRIPTS / "asks.py"), *arguments, slots=2, most_slots=2)
    works = [Work(i, 1, b"[%d,1,%b]\n" % (i, work)) for i, work in enumerate(bench.works(files))]
    node = Node(settings)
    try:
        left, leases, slots = works, 0, []
        while left:
            leases += 1
            result = node.run(leases, left)
            slots.append(result.slots)
            assert result.failure is None
            left = left[len(result.receipts) :]
        assert slots == [1, 1]
        assert sorted(call.index for call in calls(bench) if call.what == "run") == list(range(10))
    finally:
        node.close(graceful=True)


def test_a_real_parallel_run_exception_works_too(bench, files, tmp_path):
    """An azureml in the script's own folder, a stub for its tests, has precedence."""
    folder = tmp_path / "source"
    (folder / "azureml" / "core").mkdir(parents=True)
    (folder / "azureml" / "core" / "__init__.py").write_text("WHOSE = 'theirs'\n")
    (folder / "azureml" / "exceptions.py").write_text(
        "class ParallelRunException(Exception):\n    code, delay_seconds = 'Retry.NoRetry', 0\n"
    )
    script = folder / "script.py"
    script.write_text(
        "import azureml.core\nfrom azureml.exceptions import ParallelRunException\n"
        "def run(batch):\n    raise ParallelRunException(azureml.core.WHOSE + str(hasattr(azureml.core, 'Run')))\n"
    )
    (receipt,) = bench.attempt(bench.slot(str(script)), bench.works(files)[:1])
    assert (receipt.final, receipt.error) == (True, "theirsFalse")


@pytest.mark.parametrize("there", ["core", "other"])
def test_stand_ins_only_replace_missing_packages(bench, files, tmp_path, there):
    """An azureml without core is completed; one with core but without exceptions is not changed."""
    folder = tmp_path / "source"
    (folder / "azureml" / there).mkdir(parents=True)
    (folder / "azureml" / there / "__init__.py").write_text("")
    script = folder / "script.py"
    script.write_text(
        f"import azureml.{there}\n"
        "def run(batch):\n    from azureml.exceptions import ParallelRunException\n"
        "    from azureml.core import Run\n    return [Run.get_context().id]\n"
    )
    (receipt,) = bench.attempt(bench.slot(str(script), run_id="r-1"), bench.works(files)[:1])
    if there == "other":
        assert bench.rows([receipt]) == ["r-1"]
    else:
        assert (receipt.error_type, receipt.error) == ("ModuleNotFoundError", "No module named 'azureml.exceptions'")


def test_an_azure_script_sees_azure_names(bench, files, tmp_path):
    """Names, models, variables; missing names give the alternative."""
    models = {"digits": tmp_path / "digits.bin", "digits:2": tmp_path / "second"}
    models |= {f"newest:{version}": tmp_path / f"version {version}" for version in (2, 10, 9)}
    for path in models.values():
        path.write_text("x")
    given = {name: str(path) for name, path in models.items()}
    slot = bench.slot(str(SCRIPTS / "tells.py"), models=given, step="score", run_id="score-1", side_inputs={"lookup": "/l"})
    receipts = bench.attempt(slot, bench.works(files)[:2])
    assert receipts[0].error == ""
    assert receipts[1].error == "./digits.bin exists; pass exist_ok=True"  # the working directory is the process's
    (facts,) = map(json.loads, bench.rows(receipts))
    scratch = slot._child._directory
    assert (facts["index"], facts["id"], facts["parent"], facts["experiment"]) == (0, "score-1", "score-1", "score")
    assert (facts["offline"], facts["same"], facts["subclass"], facts["has"]) == (False, True, True, [True, False])
    assert (facts["tags"], facts["side"], facts["agent"]) == ({"kind": "test"}, {"lookup": "/l"}, "node-0.0.1")
    assert (facts["dir"], facts["spec"], facts["other"]) == (str(SCRIPTS), True, True)
    assert facts["variables"] == {
        "AZUREML_ARM_PROJECT_NAME": "score",
        "AZUREML_BI_OUTPUT_PATH": str(tmp_path / "out"),
        "AZUREML_DATAREFERENCE_lookup": "/l",
        "AZUREML_MODEL_DIR": f"{scratch}/azureml-models",
        "AZUREML_ROOT_RUN_ID": "score-1",
        "AZUREML_RUN_ID": "score-1",
    }
    assert facts["models"] == [given["digits"], given["digits:2"], given["digits"], given["newest:10"]]
    assert (facts["listed"], facts["download"]) == (["digits", "newest"], "digits.bin")
    assert "model 'none' is not configured; add models={'none': path}" in facts["model"]
    assert "known models: digits, digits:2, newest:10" in facts["model"]
    assert "azureml.core.Dataset.get_by_name: there is no Azure ML workspace here" in facts["dataset"]
    assert "side_inputs" in facts["dataset"]
    assert "azureml.core.Workspace.from_config: " in facts["workspace"]
    assert "azureml.core.Workspace.get_default_datastore: " in facts["datastore"]
    assert "azureml.core.Run.upload_file: " in facts["upload"]
    assert "EntryScript().output_dir" in facts["upload"]
    assert "expected Retry.NoRetry, Retry.Sleep" in facts["code"]
    metrics = [json.loads(line) for line in (bench.run / "logs" / "node-0.0.1.metrics.jsonl").read_text().splitlines()]
    said = [{key: value for key, value in metric.items() if key != "time"} for metric in metrics if metric["mini_batch"] == 0]
    assert said == [
        {"name": "rows", "mini_batch": 0, "attempt": 1, "value": 10},
        {"name": "items", "mini_batch": 0, "attempt": 1, "value": [0, 1, 2]},
        {"name": "nothing", "mini_batch": 0, "attempt": 1, "value": None, "step": 2},
        {"name": "kind", "mini_batch": 0, "attempt": 1, "tag": "test"},
    ]
    assert "INFO rows = 10" in (bench.run / "logs" / "node-0.0.1.log").read_text()


UNUSED = """\
import azure.ai.ml.entities
import azureml.data.dataset_factory
import azureml.telemetry as telemetry
import mltable
from azure.ai.ml import MLClient
from azure.identity import DefaultAzureCredential
from azureml.contrib.services.aml_request import rawhttp
from azureml.data import TabularDataset
from azureml.dataprep import read_csv
from azureml.exceptions import WebserviceException
from azureml.pipeline.core import Pipeline
from azureml.train import automl
from mltable import load
"""
USED = """
import importlib
from azureml.exceptions import AzureMLException

def said(call, *arguments):
    try:
        return str(call(*arguments))
    except (ImportError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"

def run(batch):
    yield said(load, ".")
    yield said(getattr, MLClient, "x")
    yield issubclass(WebserviceException, AzureMLException)
    yield said(exec, "from azureml.exceptions import Retry")
    yield said(importlib.import_module, "azure.nothing")
"""


def test_unused_azure_names_can_be_imported(bench, files, tmp_path):
    """Of any package; each raises on use, and names that no package has fail as in Azure."""
    script = tmp_path / "script.py"
    script.write_text(UNUSED + USED)
    rows = bench.rows(bench.attempt(bench.slot(str(script)), bench.works(files)[:1]))
    assert rows[0].startswith("NoAzureError: mltable.load: there is no Azure ML workspace here")
    assert rows[1].startswith("NoAzureError: azure.ai.ml.MLClient.x: ")
    assert rows[2] == "True"
    assert rows[3].startswith("ImportError: cannot import name 'Retry'")
    assert rows[4] == "ModuleNotFoundError: No module named 'azure.nothing'"


CATCHES = """
from azureml.core import Dataset, Run, Workspace
refused_in_init = hasattr(Run.get_context(), "upload_file")

def run(batch):
    if "f000" in batch[0]:
        try:
            Dataset.get_by_name(None, "x")
        except Exception as error:
            return f"Error in {batch}: {error}"
    if "f010" in batch[0]:
        return f"nothing wrong with {batch}"
    if "f020" in batch[0]:
        hasattr(Workspace, "get")
    return list(batch)
"""


def test_a_wrong_type_includes_the_caught_error(bench, files, tmp_path):
    """That of run() has precedence over that of init(); the fingerprint does not depend on the string."""
    script = tmp_path / "script.py"
    script.write_text(CATCHES)
    receipts = bench.attempt(bench.slot(str(script)), bench.works(files)[:3])
    assert [receipt.outcome for receipt in receipts] == ["wrong_type", "wrong_type", "succeeded"]
    first, second = receipts[0].error, receipts[1].error
    assert first.startswith('run() returned str "Error in [')
    assert "Before, the script caught NoAzureError: azureml.core.Dataset.get_by_name: there is no Azure ML workspace" in first
    assert second.startswith('run() returned str "nothing wrong with [')
    assert "Before, the script caught NoAzureError: azureml.core.Run.upload_file: " in second
    again = bench.attempt(bench.slot(str(script), node="node-1"), bench.works(files)[:1], attempt=2)
    assert again[0].fingerprint == receipts[0].fingerprint != receipts[1].fingerprint


@pytest.mark.skipif(int(pd.__version__.split(".")[0]) < 3, reason="advice for pandas 3 only")
@pytest.mark.parametrize("where", ["import", "run"])
def test_a_script_that_pandas_3_breaks_gets_advice(bench, files, tmp_path, where):
    """Also while importing; another interpreter has its own pandas."""
    script = tmp_path / "script.py"
    call = "pd.to_numeric(pd.Series(['x']), errors='ignore')\n"
    head = f"from azureml.core import Run\nimport pandas as pd\n{call if where == 'import' else ''}"
    script.write_text(f"{head}def run(batch):\n    return {call}")
    slot = bench.slot(str(script))
    if where == "import":
        with pytest.raises(SlotUnusableError) as caught:
            slot.start()
        error = caught.value.failure.error
    else:
        (receipt,) = bench.attempt(slot, bench.works(files)[:1])
        error = receipt.error
    assert error.startswith("invalid error value specified\npandas 3.")
    assert 'environment=Environment(requirements=["pandas<3", …])' in error


def test_the_message_of_argparse_is_in_the_error(bench, files, tmp_path):
    """Otherwise there would only be a status; without secrets."""
    script = tmp_path / "script.py"
    parser = "argparse.ArgumentParser(prog='p-' + os.environ['TOKEN'])\nparser.add_argument('--model', required=True)\n"
    script.write_text(f"import argparse, os\nparser = {parser}parser.parse_args()\ndef run(batch):\n    return batch\n")
    slot = bench.slot(str(script), environment_variables={"TOKEN": "canary-7"})
    with pytest.raises(SlotUnusableError) as caught:
        slot.start()
    failure = caught.value.failure
    said = "2: p-***: error: the following arguments are required: --model"
    assert (failure.stage, failure.error_type, failure.error) == ("import", "SystemExit", said)


@pytest.mark.parametrize("is_folder", [False, True])
def test_one_model_is_the_model_directory(bench, files, tmp_path, is_folder):
    """AZUREML_MODEL_DIR holds the file or folder that was registered, as in Azure; a variable of the step's own stays."""
    model = tmp_path / "mine"
    (model.mkdir if is_folder else model.touch)()
    script = tmp_path / "script.py"
    script.write_text("import os\nME = os.environ['AZUREML_MODEL_DIR']\ndef run(batch):\n    return [ME, *os.listdir(ME)]\n")
    works = bench.works(files)[:1]
    folder, *inside = bench.rows(bench.attempt(bench.slot(str(script), models={"m": str(model)}), works))
    assert (folder.endswith("/azureml-models/m/1"), inside) == (True, ["mine"])
    variables = {"AZUREML_MODEL_DIR": str(files)}
    own = bench.slot(str(script), models={"m": str(model)}, environment_variables=variables, node="node-1")
    assert bench.rows(bench.attempt(own, works))[0] == str(files)


def test_a_script_without_init_names_its_output(bench, files):
    """By mini_batch.task_id, beside AZUREML_BI_OUTPUT_PATH."""
    receipts = bench.attempt(bench.slot(str(SCRIPTS / "bare.py")), bench.works(files))
    assert bench.rows(receipts)[15] == "f015.txt 1"
    assert len(list((bench.folder / "out" / "by_task").iterdir())) == 10


def test_metrics_are_limited(tmp_path, monkeypatch):
    """Further ones are dropped, with one note."""
    from prefect_parallel_run.child import azureml_core

    monkeypatch.setattr(azureml_core, "_MOST_BYTES", 1000)
    found = azureml_core.Metrics(str(tmp_path / "m.jsonl"))
    for number in range(100):
        found.add("x", value=number)
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [line["value"] for line in lines[:-1]] == list(range(len(lines) - 1))
    assert "dropped" in lines[-1]["note"]
    assert (tmp_path / "m.jsonl").stat().st_size < 1300


def test_stand_ins_are_loaded_on_import():
    """Every process starts; most scripts do not use Azure."""
    folder = Path(__file__).parents[2] / "prefect_parallel_run" / "child"
    code = (
        "import sys, runpy\n"
        f"namespace = runpy.run_path({str(folder / '__main__.py')!r})\n"
        "namespace['_adopt']()\n"
        "from prefect_parallel_run.child.main_loop import main\n"
        "from prefect_parallel_run.child.azureml_stand_ins import install_import_hook\n"
        "install_import_hook()\n"
        "before = list(sys.modules)\n"
        "import azureml.core\n"
        "facts = {'before': before, 'after': list(sys.modules)}\n"
    )
    facts = facts_of(code)
    late = {f"prefect_parallel_run.child.{name}" for name in ("azureml_core", "azureml_errors", "metrics")}
    assert not late.intersection(facts["before"])
    assert not [name for name in facts["before"] if name.startswith("azureml")]
    assert "azureml.core" in facts["after"]
