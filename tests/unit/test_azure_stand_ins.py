"""Names of Azure's packages that are absent: they can be imported, and say on use what there is instead."""

import importlib
import pickle
import sys
from unittest.mock import patch

import pytest

from prefect_parallel_run.child.azure_errors import NoAzureError
from prefect_parallel_run.child.stand_ins import _Finder


@pytest.fixture
def offered(monkeypatch):
    """Imports as a script would where none of Azure's packages is installed."""
    with patch.dict(sys.modules):
        for name in [name for name in sys.modules if name.partition(".")[0] in ("azure", "azureml")]:
            del sys.modules[name]
        monkeypatch.setattr(sys, "meta_path", [_Finder(), *sys.meta_path])
        yield importlib.import_module


@pytest.mark.parametrize(
    ("module", "name", "instead"),
    [
        ("azureml.automl.core.shared", "log_server", "put it into the requirements of the step's environment"),
        ("azureml.mlflow", "get_portal_url", "metrics go to Run.log()"),
        ("azureml.fsspec", "AzureMachineLearningFileSystem", "files are read from side_inputs"),
        ("azureml.interpret", "ExplanationClient", "interpret-community"),
        ("azureml.monitoring", "ModelDataCollector", "rows are returned from run()"),
        ("azure.storage.blob", "BlobServiceClient", "written below EntryScript().output_dir"),
    ],
)
def test_packages_that_scripts_import(offered, module, name, instead):
    """Whatever is asked for in them."""
    with pytest.raises(NoAzureError) as caught:
        getattr(offered(module), name)()
    assert str(caught.value).startswith(f"{module}.{name}: there is no Azure ML workspace here")
    assert instead in str(caught.value)


def test_names_are_classes(offered):
    """Annotations and isinstance() may name them; a class below one, and an object of one in a pickle, say what is missing."""
    kind = offered("azureml.automl.runtime").Model
    assert not isinstance(1, kind | None)
    with pytest.raises(NoAzureError, match=r"^azureml\.automl\.runtime\.Model\.load: "):
        kind.load()
    for use in (lambda: type("Mine", (kind,), {}), lambda: pickle.loads(b"\x80\x04cazureml.automl.runtime\nModel\n)\x81.")):
        with pytest.raises(NoAzureError, match=r"^azureml\.automl\.runtime\.Model: there is no Azure ML workspace"):
            use()


def test_what_packages_are_in_has_no_names(offered):
    """It may be a real one's, with others in it; a package of its own that people install is not stood in for."""
    with pytest.raises(AttributeError):
        offered("azure.storage").anything  # noqa: B018  it is asked for
    for name in ("mlflow", "azure.storage.queue", "azure.core", "interpret"):
        assert _Finder().find_spec(name) is None
