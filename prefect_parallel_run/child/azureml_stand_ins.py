"""Prepares a process for a script written for Azure ML: environment variables, a folder of models, and an import hook.

The hook provides the Azure modules that entry scripts import, if the real packages are not installed. Python calls this finder
last, when no other finder has the module: the real package has precedence, as has a module of that name in the script's own
folder. ``azureml.core``, ``azureml.exceptions`` and the private packages that scripts use, such as ``azureml._restclient``,
belong to one distribution, azureml-core, so the stand-ins are provided together or not at all; an ``azureml`` that other
packages of Azure share may still be the real one. Of other missing packages, every name can be imported: a script may import
names that it never uses. The stand-ins are loaded when the script imports them, so that other scripts pay nothing.
"""

import importlib
import os
import shutil
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Callable, Dict, Optional, Tuple

from .entry_script import current

_MODELS = "azureml-models"  #: folder
_OURS = "prefect_parallel_run"
#: All names of azureml.exceptions; importing any other, such as Retry, fails as it does in Azure.
AZURES_EXCEPTIONS = (
    *("ActivityFailedException", "AuthenticationException", "AzureMLAggregatedException", "AzureMLException"),
    *("ComputeTargetException", "DatasetTimestampMissingError", "DiscoveryUrlNotFoundException"),
    *("ExperimentExecutionException", "ModelNotFoundException", "ModelPathNotFoundException", "ParallelRunException"),
    *("ProjectSystemException", "RunConfigurationException", "RunEnvironmentException", "ServiceException"),
    *("SnapshotException", "TrainingException", "UserErrorException", "WebserviceException", "WorkspaceException"),
    "WorkspacePrivateEndpointException",
)
#: By module: the module of this folder that provides its names. All other public names can be imported, and raise on use.
_PROVIDED: Dict[str, Dict[str, Tuple[str, ...]]] = {
    "azureml": {},
    "azureml.core": {"azureml_core": ("Run", "get_run", "Model")},
    "azureml.core.run": {"azureml_core": ("Run", "get_run", "_OfflineRun", "_SubmittedRun")},
    "azureml.core.model": {"azureml_core": ("Model",)},
    "azureml.core.workspace": {"azureml_core": ("Workspace",)},
    "azureml.core.experiment": {"azureml_core": ("Experiment",)},
    "azureml.exceptions": {"azureml_errors": AZURES_EXCEPTIONS},
    "azureml_user": {},
    "azureml_user.parallel_run": {"entry_script": ("EntryScript",)},
    _OURS: {"entry_script": ("EntryScript", "NoRetry", "RetryLater"), "functions": ("parallel_run",)},
}
_CORE, _EXCEPTIONS = "azureml.core", "azureml.exceptions"
_CORE_PACKAGES = ("compute", "image", "webservice")  #: of azureml.core, with any submodule
#: The modules of azureml.core, as azureml-core 1.61 has them.
_CORE_MODULES = (
    *_CORE_PACKAGES,
    *("_docs", "_experiment_method", "_metrics", "_portal", "_serialization_utils", "authentication"),
    *("compute_target", "conda_dependencies", "container_registry", "databricks", "dataset", "datastore"),
    *("environment", "experiment", "keyvault", "linked_service", "model", "private_endpoint", "profile"),
    *("resource_configuration", "run", "runconfig", "script_run", "script_run_config", "util", "workspace"),
)
#: The other packages of azureml-core, with any submodule: their names can be imported, but not used.
_BESIDE_CORE = (
    *("azureml._async", "azureml._base_sdk_common", "azureml._cli", "azureml._cli_common", "azureml._common"),
    *("azureml._compute", "azureml._execution", "azureml._file_utils", "azureml._history", "azureml._html"),
    *("azureml._introspect", "azureml._jupyter_common", "azureml._logging", "azureml._model_converters"),
    *("azureml._model_management", "azureml._project", "azureml._restclient", "azureml._run_impl"),
    *("azureml._tracing", "azureml._vendor", "azureml._workspace", "azureml.data", "azureml.history"),
)
_TOGETHER = {_CORE, _EXCEPTIONS, *_BESIDE_CORE}  #: all real or all stand-ins
#: Other Azure packages that scripts import, with any submodule: their names can be imported, but not used.
_ABSENT = (
    *("azure.ai.ml", "azure.identity", "azure.storage.blob", "azureml.automl", "azureml.contrib", "azureml.dataprep"),
    *("azureml.fsspec", "azureml.interpret", "azureml.mlflow", "azureml.monitoring", "azureml.opendatasets"),
    *("azureml.pipeline", "azureml.telemetry", "azureml.train", "azureml.widgets", "mltable"),
)
_PARENTS = {"azure", "azure.ai", "azure.storage"}  # parent packages of these


def configure_stand_ins(settings: Dict[str, Any]) -> None:
    """Set Azure's environment variables, except existing ones, and the values of the stand-ins; install the import hook.

    Args:
        settings: ``step``, ``run_id``, ``models`` and ``side_inputs`` (paths by name), ``scratch``, ``metrics_file``.
    """
    current.step, current.run_id = settings["step"], settings["run_id"]
    current.models, current.metrics_file = dict(settings["models"]), settings["metrics_file"]
    variables = {
        "AZUREML_RUN_ID": current.run_id,
        "AZUREML_ROOT_RUN_ID": current.run_id,
        "AZUREML_ARM_PROJECT_NAME": current.step,  # the experiment's name
        **{f"AZUREML_DATAREFERENCE_{name}": path for name, path in settings["side_inputs"].items()},
    }
    if current.models and "AZUREML_MODEL_DIR" not in os.environ:
        variables["AZUREML_MODEL_DIR"] = _lay_out_models(current.models, settings["scratch"])
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    install_import_hook()


def install_import_hook() -> None:
    """Install the import hook."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def _lay_out_models(models: Dict[str, str], scratch: str) -> str:
    """Lay out the models as Azure does, and return the value of AZUREML_MODEL_DIR.

    That is ``azureml-models/NAME/VERSION``, which contains the model's file or folder; with several models, the top folder.
    """
    folders = {}
    for name, path in models.items():
        model, _, version = name.partition(":")
        folder = os.path.join(scratch, _MODELS, model, version or "1")
        os.makedirs(folder, exist_ok=True)
        target = os.path.join(folder, os.path.basename(path))
        if not os.path.lexists(target):  # NAME and NAME:1 are the same
            _link_or_copy(path, target, ())
        folders[folder] = True
    return next(iter(folders)) if len(folders) == 1 else os.path.join(scratch, _MODELS)


def _link_or_copy(source: str, target: str, above: Tuple[str, ...]) -> None:
    """Recreate *source* at *target* with real folders, and hard links or else copies of its files.

    MLflow refuses links out of a model's folder. *above* are the parent folders of *source*, to break cycles of links.
    """
    real = os.path.realpath(source)
    if not os.path.isdir(real):
        try:
            os.link(real, target)
        except FileNotFoundError:  # a dangling link is recreated
            os.symlink(source, target)
        except OSError:  # another file system, or one without hard links
            shutil.copy2(real, target)
    elif real not in above:
        os.mkdir(target)
        for name in os.listdir(real):
            _link_or_copy(os.path.join(real, name), os.path.join(target, name), (*above, real))


class _Finder:
    """Finder and loader of the modules above."""

    def find_spec(self, name: str, path: Any = None, _: Any = None) -> Optional[ModuleSpec]:
        """Return the spec of a stand-in module whose real package is missing."""
        if name not in _PROVIDED and name not in _PARENTS and not _is_core_module(name) and not _is_absent(name):
            return None
        if name in _TOGETHER and any(_is_installed(other, path) for other in (_CORE, _EXCEPTIONS) if other != name):
            return None
        parent = name.rpartition(".")[0]
        if (parent == _CORE or _is_core_module(parent) or _is_absent(parent)) and not _is_stand_in(parent):
            return None  # the real package is installed, without that module
        return ModuleSpec(name, self, origin="prefect_parallel_run", is_package=True)  # type: ignore[arg-type]  # see below

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python create an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Set the names of a stand-in module."""
        name = module.__name__
        for source, names in _PROVIDED.get(name, {}).items():
            provider = importlib.import_module(f"prefect_parallel_run.child.{source}")
            for provided in names:
                setattr(module, provided, getattr(provider, provided))
        if name == _CORE:
            module.__version__ = module.VERSION = "0.0.0"  # type: ignore[attr-defined]  # a module is an open namespace
        if name == _OURS:
            module.__getattr__ = _missing_from_ours  # type: ignore[method-assign]  # a module is an open namespace
        if name.startswith(_CORE) or _is_absent(name):
            module.__getattr__ = _absent_from(name)  # type: ignore[method-assign]  # a module is an open namespace


def _is_stand_in(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and isinstance(spec.loader, _Finder)


def _is_installed(name: str, path: Any) -> bool:
    if name in sys.modules:
        return not _is_stand_in(name)
    return PathFinder.find_spec(name, path) is not None


def _is_absent(name: str) -> bool:
    """True for an Azure package whose names can only be imported, and for its submodules."""
    return any(name == package or name.startswith(f"{package}.") for package in (*_ABSENT, *_BESIDE_CORE))


def _is_core_module(name: str) -> bool:
    if not name.startswith(f"{_CORE}."):
        return False
    module, _, inner = name[len(_CORE) + 1 :].partition(".")
    return module in _CORE_MODULES and (not inner or module in _CORE_PACKAGES)


def _missing_from_ours(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {_OURS!r} has no attribute {name!r}")
    raise ImportError(
        f"cannot import {name} from {_OURS}, which is not installed for {sys.executable}: there,"
        f" {', '.join(sum(_PROVIDED[_OURS].values(), ()))} can be imported; install {_OURS} in the step's environment,"
        f" or import {name} in the function that uses it"
    )


def _absent_from(module: str) -> Callable[[str], Any]:
    # a lower-case name may be a stand-in module, which Python looks for when this fails
    may_be_a_module = module == _CORE or module[len(_CORE) + 1 :] in _CORE_PACKAGES

    def get_name(name: str) -> Any:
        is_hidden = name.startswith("__")  # __file__, __all__ and the like
        if is_hidden or (may_be_a_module and not name[:1].isupper()):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        from .azureml_errors import absent  # noqa: PLC0415  only needed for the first missing name

        return absent(f"{module}.{name}")

    return get_name
