"""Names that entry scripts import and that are not there: offered in place of a package that is absent, and only then.

Python asks this finder last, when nothing else has the module: the real package wins, as does one of that name in the script's
own folder. ``azureml.core`` and ``azureml.exceptions`` come from one distribution, azureml-core, so ours are offered together
or not at all; an ``azureml`` that others of Azure's packages share may be real beneath them. Of those others, whatever is asked
for is offered where they are absent: a script may import what it never comes to use. What a module holds is imported
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
    "azureml.core": {"azure_run": ("Run", "get_run"), "azure_model": ("Model",)},
    "azureml.core.run": {"azure_run": ("Run", "get_run", "_OfflineRun", "_SubmittedRun")},
    "azureml.core.model": {"azure_model": ("Model",)},
    "azureml.core.workspace": {"azure_run": ("Workspace",)},
    "azureml.core.experiment": {"azure_run": ("Experiment",)},
    "azureml.exceptions": {"azure_errors": AZURES_EXCEPTIONS},
    "azureml_user": {},
    "azureml_user.parallel_run": {"context": ("EntryScript",)},
    "prefect_parallel_run": {"context": ("EntryScript", "NoRetry")},
}
_EMPTY = {  # modules of azureml.core that scripts name without a need
    f"azureml.core.{name}"
    for name in (
        "authentication",
        "compute",
        "conda_dependencies",
        "dataset",
        "datastore",
        "environment",
        "keyvault",
        "runconfig",
        "webservice",
    )
}
_CORE, _EXCEPTIONS = "azureml.core", "azureml.exceptions"
#: Other packages of Azure's that scripts import, whole, with the modules in them: names that can be imported, and nothing else.
_ABSENT = (
    "azure.ai.ml",
    "azure.identity",
    "azure.storage.blob",
    "azureml.automl",
    "azureml.contrib",
    "azureml.data",
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
        if name not in _OFFERED and name not in _EMPTY and name not in _ABOVE and not _is_absent(name):
            return None
        if name == "azureml.data" and _is_there(_CORE, path):
            return None  # of the same distribution
        parent = name.rpartition(".")[0]
        if _is_absent(parent) and not _is_ours(parent):
            return None  # the package is there, and has no such module
        if name.startswith(f"{_CORE}.") and not _is_ours(_CORE):
            return None
        if name in (_CORE, _EXCEPTIONS) and _is_there(_EXCEPTIONS if name == _CORE else _CORE, path):
            return None
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
    return any(name == package or name.startswith(f"{package}.") for package in _ABSENT)


def _absent_from(module: str) -> Callable[[str], Any]:
    has_functions = _is_absent(module)

    def named(name: str) -> Any:
        is_one = name[:1].isalpha() if has_functions else name[:1].isupper()
        if not is_one:  # __path__, __file__ and the like, or a module that is none of the above
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        from .azure_errors import absent  # noqa: PLC0415  the first name that is not there

        return absent(f"{module}.{name}")

    return named
