"""Tells what it sees of Azure's names and variables, one fact per line."""

import importlib.util
import json
import os

import azureml.core
from azureml.core import Dataset, Run, Workspace
from azureml.core.model import Model
from azureml.core.run import Run as SameRun
from azureml.core.run import _OfflineRun
from azureml.exceptions import ParallelRunException, UserErrorException
from azureml_user.parallel_run import EntryScript


def said(call, *arguments):
    """What a call that cannot be done here says."""
    try:
        return repr(call(*arguments))
    except Exception as error:  # noqa: BLE001  whichever it is
        return f"{type(error).__name__}: {error}"


def run(mini_batch, mini_batch_context):
    run_ = Run.get_context(allow_offline=False)
    run_.log("rows", len(mini_batch))
    run_.log_list("items", list(range(3)))
    run_.log("nothing", float("nan"), step=2)
    run_.tag("kind", "test")
    facts = {
        "index": mini_batch_context.minibatch_index,
        "id": run_.id,
        "parent": run_.parent.id,
        "experiment": run_.experiment.name,
        "offline": isinstance(run_, _OfflineRun),
        "same": SameRun is Run and EntryScript() is EntryScript(),
        "tags": run_.get_tags(),
        "side": run_.input_datasets,
        "agent": EntryScript().agent_name,
        "dir": EntryScript().dir,
        "has": [hasattr(run_, "log"), hasattr(run_, "upload_file")],
        "version": azureml.core.VERSION,
        "subclass": issubclass(ParallelRunException, Exception) and not issubclass(ParallelRunException, UserErrorException),
        "spec": importlib.util.find_spec("azureml.core.run") is not None,
        "other": importlib.util.find_spec("azureml.nothing") is None,
        "variables": {name: text for name, text in os.environ.items() if name.startswith("AZUREML_")},
        "models": [
            Model.get_model_path("digits"),
            Model.get_model_path("digits", 2),
            Model.get_model_path("digits", version=3),
            Model.get_model_path("newest"),
        ],
        "listed": sorted(os.listdir(os.environ["AZUREML_MODEL_DIR"])),
        "download": os.path.relpath(Model(run_.experiment.workspace, "digits").download()),
        "model": said(Model.get_model_path, "none"),
        "dataset": said(getattr, Dataset, "get_by_name"),
        "workspace": said(getattr, Workspace, "from_config"),
        "datastore": said(getattr, run_.experiment.workspace, "get_default_datastore"),
        "upload": said(getattr, run_, "upload_file"),
        "code": said(ParallelRunException, "x", "Retry.Never"),
    }
    return [json.dumps(facts)]
