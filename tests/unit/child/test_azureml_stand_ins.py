"""Names of Azure's packages that are absent: they can be imported, and say on use what there is instead."""

import importlib
import pickle
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from prefect_parallel_run.child import azureml_stand_ins
from prefect_parallel_run.child.azureml_core import Model, Run
from prefect_parallel_run.child.azureml_errors import AzureMLException, ModelNotFoundException, NoAzureError
from prefect_parallel_run.child.azureml_stand_ins import _BESIDE_CORE, _CORE_MODULES, _Finder
from prefect_parallel_run.child.entry_script import current


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
        ("azureml.automl.core.shared", "log_server", "add it to the requirements of the step's environment"),
        ("azureml.mlflow", "get_portal_url", "use Run.log() for metrics"),
        ("azureml.fsspec", "AzureMachineLearningFileSystem", "read files from side_inputs"),
        ("azureml.interpret", "ExplanationClient", "interpret-community"),
        ("azureml.monitoring", "ModelDataCollector", "return rows from run()"),
        ("azure.storage.blob", "BlobServiceClient", "write them to EntryScript().output_dir"),
        ("azureml._restclient.jasmine_client", "JasmineClient", "only Run.get_context(), Model and the exceptions"),
        ("azureml._base_sdk_common", "_ClientSessionId", "only Run.get_context(), Model and the exceptions"),
        ("azureml.core.compute.amlcompute", "AmlCompute", "only Run.get_context(), Model and the exceptions"),
        ("azureml.core.authentication", "MsiAuthentication", "only Run.get_context(), Model and the exceptions"),
        ("azureml.core.container_registry", "ContainerRegistry", "only Run.get_context(), Model and the exceptions"),
    ],
)
def test_missing_names_suggest_an_alternative(offered, module, name, instead):
    """This holds for any name in these packages."""
    with pytest.raises(NoAzureError) as caught:
        getattr(offered(module), name)()
    assert str(caught.value).startswith(f"{module}.{name}: there is no Azure ML workspace here")
    assert instead in str(caught.value)


def test_missing_names_are_classes(offered):
    """Annotations and isinstance() accept them; subclassing and unpickling raise an error that names them."""
    kind = offered("azureml.automl.runtime").Model
    assert not isinstance(1, kind | None)
    with pytest.raises(NoAzureError, match=r"^azureml\.automl\.runtime\.Model\.load: "):
        kind.load()
    for use in (lambda: type("Mine", (kind,), {}), lambda: pickle.loads(b"\x80\x04cazureml.automl.runtime\nModel\n)\x81.")):
        with pytest.raises(NoAzureError, match=r"^azureml\.automl\.runtime\.Model: there is no Azure ML workspace"):
            use()


def test_every_module_of_azureml_core_can_be_imported(offered):
    """A script that imports it inside a try behaves as in Azure; other modules are missing here too."""
    for name in _CORE_MODULES:
        offered(f"azureml.core.{name}")
        exec(f"from azureml.core import {name}")
    for name in _BESIDE_CORE:
        offered(f"{name}.anything")
    for name in ("azureml.core.nothing", "azureml.core.run.nothing", "azureml._nothing"):
        with pytest.raises(ModuleNotFoundError):
            offered(name)


@pytest.mark.parametrize("real", ["core", "exceptions"])
def test_a_real_azureml_core_gets_no_stand_ins(offered, tmp_path, monkeypatch, real):
    """A module that its version lacks raises the ImportError that the script expects."""
    (tmp_path / "azureml" / real).mkdir(parents=True)
    (tmp_path / "azureml" / real / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path[1:], sys.meta_path[0]])  # as in a child, where ours is asked last
    offered(f"azureml.{real}")
    for name in ("core", "exceptions", "core.environment", "_restclient", "_restclient.models", "data", "history"):
        if name != real:
            with pytest.raises(ModuleNotFoundError):
                offered(f"azureml.{name}")


def test_names_of_exceptions_can_be_caught(offered):
    """An except clause accepts only exceptions; azureml-core has the same ones in several modules."""
    caught = offered("azureml.core.compute_target").ComputeTargetException
    assert caught is offered("azureml.exceptions").ComputeTargetException
    assert issubclass(caught, AzureMLException)
    assert offered("azureml._common.exceptions").AzureMLException is AzureMLException
    assert issubclass(offered("azure.identity").CredentialUnavailableError, Exception)


@pytest.fixture
def models(monkeypatch):
    """A configuration's models, and their paths."""
    given = {"forest": "/f", "newest:2": "/2", "newest:10": "/10", "both:3": "/3", "both": "/b", "both:1": "/1"}
    monkeypatch.setattr(current, "models", given)
    return Run.get_context().experiment.workspace


def test_listed_models_match_single_ones(models):
    """The first is Model(ws, name), with Azure's version and id; the others are older."""
    for name, paths in (("forest", ["/f"]), ("newest", ["/10", "/2"]), ("both", ["/b", "/3"]), ("newest:2", ["/2"])):
        found = Model.list(models, name=name)
        assert [model._path for model in found] == paths
        assert [Model.get_model_path(model.name, version=model.version) for model in found][1:] == paths[1:]
        (first,) = Model.list(models, name, latest=True)
        assert vars(first) == vars(found[0]) == vars(Model(models, name))
    assert [(model.version, model.id) for model in Model.list(models, "newest")] == [(10, "newest:10"), (2, "newest:2")]
    assert [model.id for model in Model.list(models, latest=True)] == ["forest:1", "newest:10", "both:1"]
    assert {name: model._path for name, model in models.models.items()} == {"forest": "/f", "newest": "/10", "both": "/b"}


def test_unsupported_model_lists_raise(models):
    """Models of a configuration have no tags; an unknown name is an error, not an empty list."""
    with pytest.raises(NoAzureError, match=r"^azureml\.core\.Model\.list\(tags=…\): .*the models field"):
        Model.list(models, name="forest", tags=[["stage", "prod"]])
    with pytest.raises(ModelNotFoundException, match=r"model 'none' is not configured.*known models: both, both:1"):
        Model.list(models, name="none")


def test_parent_packages_have_no_names(offered):
    """They may be real ones; packages that users install themselves get no stand-in."""
    with pytest.raises(AttributeError):
        offered("azure.storage").anything  # noqa: B018  it is asked for
    for name in ("mlflow", "azure.storage.queue", "azure.core", "interpret"):
        assert _Finder().find_spec(name) is None


@pytest.mark.parametrize("has_links", [True, False])
def test_models_are_real_files_in_their_folder(tmp_path, monkeypatch, has_links):
    """Hard links or copies; cycles of links are broken."""

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
    root = azureml_stand_ins._lay_out_models({"forest": str(tmp_path / "latest")}, str(tmp_path / "scratch"))
    found = {path for path in Path(root).rglob("*") if path.is_file()}
    assert {path.relative_to(root).as_posix() for path in found} == {"latest/data/model.pkl", "latest/link.pkl"}
    assert all(path.read_text() == "x" and path.resolve().is_relative_to(Path(root).resolve()) for path in found)
    assert all((path.stat().st_ino == (model / "data" / "model.pkl").stat().st_ino) is has_links for path in found)


def test_stand_ins_have_the_names_that_the_hook_promises():
    """The hook refers to modules by name, and imports them only when a script does."""
    for module, providers in azureml_stand_ins._PROVIDED.items():
        for provider, names in providers.items():
            stand_in = importlib.import_module(f"prefect_parallel_run.child.{provider}")
            assert [name for name in names if not hasattr(stand_in, name)] == [], module
