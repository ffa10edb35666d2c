"""Names of Azure's packages that are absent: they can be imported, and say on use what there is instead."""

import importlib
import pickle
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from prefect_parallel_run.child import azure_surroundings
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


@pytest.mark.parametrize("has_links", [True, False])
def test_models_lie_really_below_their_folder(tmp_path, monkeypatch, has_links):
    """As hard links or copies, whatever links they have inside; a link back to a folder above ends there."""

    def refuse(*_):
        raise OSError(18, "cross-device link")

    if not has_links:
        monkeypatch.setattr("os.link", refuse)
    model = tmp_path / "forest"
    (model / "data").mkdir(parents=True)
    (model / "data" / "model.pkl").write_text("x")
    (model / "link.pkl").symlink_to("data/model.pkl")
    (model / "again").symlink_to(model)
    (tmp_path / "latest").symlink_to(model)
    root = azure_surroundings._show_models({"forest": str(tmp_path / "latest")}, str(tmp_path / "scratch"))
    found = {path for path in Path(root).rglob("*") if path.is_file()}
    assert {path.relative_to(root).as_posix() for path in found} == {"latest/data/model.pkl", "latest/link.pkl"}
    assert all(path.read_text() == "x" and path.resolve().is_relative_to(Path(root).resolve()) for path in found)
    assert all((path.stat().st_ino == (model / "data" / "model.pkl").stat().st_ino) is has_links for path in found)
