"""Import hook: provides the Azure modules that entry scripts import, if the real packages are not installed.

Python calls this finder last, when no other finder has the module: the real package has precedence, as has a module of that
name in the script's own folder. ``azureml.core``, ``azureml.exceptions`` and the private packages that scripts use, such as
``azureml._restclient``, belong to one distribution, azureml-core, so the stand-ins are provided together or not at all; an
``azureml`` that other packages of Azure share may still be the real one. Of other missing packages, every name can be imported:
a script may import names that it never uses. The stand-ins are loaded when the script imports them, so that other scripts pay
nothing.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Callable, Dict, Optional, Tuple

#: All names of azureml.exceptions; importing any other, such as Retry, fails as it does in Azure.
AZURES_EXCEPTIONS = (
    "ActivityFailedException",
    "AuthenticationException",
    "AzureMLAggregatedException",
    "AzureMLException",
    "ComputeTargetException",
    "DatasetTimestampMissingError",
    "DiscoveryUrlNotFoundException",
    "ExperimentExecutionException",
    "ModelNotFoundException",
    "ModelPathNotFoundException",
    "ParallelRunException",
    "ProjectSystemException",
    "RunConfigurationException",
    "RunEnvironmentException",
    "ServiceException",
    "SnapshotException",
    "TrainingException",
    "UserErrorException",
    "WebserviceException",
    "WorkspaceException",
    "WorkspacePrivateEndpointException",
)
#: By module: the module of this folder that provides its names. All other public names can be imported, and raise on use.
_PROVIDED: Dict[str, Dict[str, Tuple[str, ...]]] = {
    "azureml": {},
    "azureml.core": {"azureml_run": ("Run", "get_run"), "azureml_model": ("Model",)},
    "azureml.core.run": {"azureml_run": ("Run", "get_run", "_OfflineRun", "_SubmittedRun")},
    "azureml.core.model": {"azureml_model": ("Model",)},
    "azureml.core.workspace": {"azureml_run": ("Workspace",)},
    "azureml.core.experiment": {"azureml_run": ("Experiment",)},
    "azureml.exceptions": {"azureml_errors": AZURES_EXCEPTIONS},
    "azureml_user": {},
    "azureml_user.parallel_run": {"context": ("EntryScript",)},
    "prefect_parallel_run": {"context": ("EntryScript", "NoRetry")},
}
_CORE, _EXCEPTIONS = "azureml.core", "azureml.exceptions"
#: The modules of azureml.core, as azureml-core 1.61 has them; a package is True, and has any submodule.
_CORE_MODULES = {
    "_docs": False,
    "_experiment_method": False,
    "_metrics": False,
    "_portal": False,
    "_serialization_utils": False,
    "authentication": False,
    "compute": True,
    "compute_target": False,
    "conda_dependencies": False,
    "container_registry": False,
    "databricks": False,
    "dataset": False,
    "datastore": False,
    "environment": False,
    "experiment": False,
    "image": True,
    "keyvault": False,
    "linked_service": False,
    "model": False,
    "private_endpoint": False,
    "profile": False,
    "resource_configuration": False,
    "run": False,
    "runconfig": False,
    "script_run": False,
    "script_run_config": False,
    "util": False,
    "webservice": True,
    "workspace": False,
}
#: The other packages of azureml-core, with any submodule: their names can be imported, but not used.
_BESIDE_CORE = (
    "azureml._async",
    "azureml._base_sdk_common",
    "azureml._cli",
    "azureml._cli_common",
    "azureml._common",
    "azureml._compute",
    "azureml._execution",
    "azureml._file_utils",
    "azureml._history",
    "azureml._html",
    "azureml._introspect",
    "azureml._jupyter_common",
    "azureml._logging",
    "azureml._model_converters",
    "azureml._model_management",
    "azureml._project",
    "azureml._restclient",
    "azureml._run_impl",
    "azureml._tracing",
    "azureml._vendor",
    "azureml._workspace",
    "azureml.data",
    "azureml.history",
)
_TOGETHER = {_CORE, _EXCEPTIONS, *_BESIDE_CORE}  #: all real or all stand-ins
#: Other Azure packages that scripts import, with any submodule: their names can be imported, but not used.
_ABSENT = (
    "azure.ai.ml",
    "azure.identity",
    "azure.storage.blob",
    "azureml.automl",
    "azureml.contrib",
    "azureml.dataprep",
    "azureml.fsspec",
    "azureml.interpret",
    "azureml.mlflow",
    "azureml.monitoring",
    "azureml.opendatasets",
    "azureml.pipeline",
    "azureml.telemetry",
    "azureml.train",
    "azureml.widgets",
    "mltable",
)
_PARENTS = {"azure", "azure.ai", "azure.storage"}  # parent packages of these


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
        if name.startswith(_CORE) or _is_absent(name):
            module.__getattr__ = _absent_from(name)  # type: ignore[method-assign]  # a module is an open namespace


def install_import_hook() -> None:
    """Install the import hook."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def _is_stand_in(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and isinstance(spec.loader, _Finder)


def _is_installed(name: str, path: Any) -> bool:
    """True when the real module *name* exists below the packages at *path*."""
    if name in sys.modules:
        return not _is_stand_in(name)
    return PathFinder.find_spec(name, path) is not None


def _is_absent(name: str) -> bool:
    """True for an Azure package whose names can only be imported, and for its submodules."""
    return any(name == package or name.startswith(f"{package}.") for package in (*_ABSENT, *_BESIDE_CORE))


def _is_core_module(name: str) -> bool:
    """True for a module of azureml.core."""
    if not name.startswith(f"{_CORE}."):
        return False
    module, _, inner = name[len(_CORE) + 1 :].partition(".")
    return module in _CORE_MODULES and (not inner or _CORE_MODULES[module])


def _absent_from(module: str) -> Callable[[str], Any]:
    # a lower-case name may be a stand-in module, which Python looks for when this fails
    may_be_a_module = module == _CORE or _CORE_MODULES.get(module[len(_CORE) + 1 :], False)

    def get_name(name: str) -> Any:
        is_hidden = name.startswith("__")  # __file__, __all__ and the like
        if is_hidden or (may_be_a_module and not name[:1].isupper()):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        from .azureml_errors import absent  # noqa: PLC0415  only needed for the first missing name

        return absent(f"{module}.{name}")

    return get_name
