"""Names that entry scripts import and that are not there: offered in place of a package that is absent, and only then.

Python asks this finder last, when nothing else has the module: the real package wins, as does one of that name in the script's
own folder. ``azureml.core``, ``azureml.exceptions`` and the private packages that scripts reach into, such as
``azureml._restclient``, come from one distribution, azureml-core, so ours are offered together or not at all; an ``azureml``
that others of Azure's packages share may be real beneath them. Of those others, whatever is asked for is offered where they
are absent: a script may import what it never comes to use. What a module holds is imported
when the script imports it: a script that knows nothing of Azure pays for nothing.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Callable, Dict, Optional, Tuple

#: All that azureml.exceptions has; what it does not have, such as Retry, fails when it is imported, as in Azure.
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
#: Module by module: where in this folder its names come from; all other public names of Azure's are there, and say on use
#: that they are not.
_OFFERED: Dict[str, Dict[str, Tuple[str, ...]]] = {
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
#: The modules of azureml.core, as azureml-core 1.61 has them; a folder is True, and has whatever modules are asked for.
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
#: The other packages of azureml-core, with whatever modules are asked for: names that can be imported, and nothing else.
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
_TOGETHER = {_CORE, _EXCEPTIONS, *_BESIDE_CORE}  #: what is real or ours as a whole
#: Other packages of Azure's that scripts import, whole, with the modules in them: names that can be imported, and nothing else.
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
_ABOVE = {"azure", "azure.ai", "azure.storage"}  # what these are in


class _Finder:
    """Both finder and loader of the modules above."""

    def find_spec(self, name: str, path: Any = None, _: Any = None) -> Optional[ModuleSpec]:
        """Return the spec of a module that we offer, and that nobody else has."""
        if name not in _OFFERED and name not in _ABOVE and not _is_core_module(name) and not _is_absent(name):
            return None
        if name in _TOGETHER and any(_is_there(other, path) for other in (_CORE, _EXCEPTIONS) if other != name):
            return None
        parent = name.rpartition(".")[0]
        if (parent == _CORE or _is_core_module(parent) or _is_absent(parent)) and not _is_ours(parent):
            return None  # the package is there, and has no such module
        return ModuleSpec(name, self, origin="prefect_parallel_run", is_package=True)  # type: ignore[arg-type]  # see below

    def create_module(self, spec: ModuleSpec) -> None:
        """Have Python make an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Give a module its names."""
        name = module.__name__
        for source, names in _OFFERED.get(name, {}).items():
            ours = importlib.import_module(f"prefect_parallel_run.child.{source}")
            for offered in names:
                setattr(module, offered, getattr(ours, offered))
        if name == _CORE:
            module.__version__ = module.VERSION = "0.0.0"  # type: ignore[attr-defined]  # a module is an open namespace
        if name.startswith(_CORE) or _is_absent(name):
            module.__getattr__ = _absent_from(name)  # type: ignore[method-assign]  # the same


def offer_names() -> None:
    """Let the script import the names above."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def _is_ours(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and isinstance(spec.loader, _Finder)


def _is_there(name: str, path: Any) -> bool:
    """True when the real module *name* is there, below the packages at *path*."""
    if name in sys.modules:
        return not _is_ours(name)
    return PathFinder.find_spec(name, path) is not None


def _is_absent(name: str) -> bool:
    """True for a package of Azure's of which only the names are offered, and for the modules in it."""
    return any(name == package or name.startswith(f"{package}.") for package in (*_ABSENT, *_BESIDE_CORE))


def _is_core_module(name: str) -> bool:
    """True for a module of azureml.core."""
    if not name.startswith(f"{_CORE}."):
        return False
    module, _, inner = name[len(_CORE) + 1 :].partition(".")
    return module in _CORE_MODULES and (not inner or _CORE_MODULES[module])


def _absent_from(module: str) -> Callable[[str], Any]:
    # a name in small letters may be a module of ours, which is found when this fails
    may_be_a_module = module == _CORE or _CORE_MODULES.get(module[len(_CORE) + 1 :], False)

    def named(name: str) -> Any:
        is_hidden = name.startswith("__")  # __file__, __all__ and the like
        if is_hidden or (may_be_a_module and not name[:1].isupper()):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        from .azureml_errors import absent  # noqa: PLC0415  the first name that is not there

        return absent(f"{module}.{name}")

    return named
