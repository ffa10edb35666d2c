"""Replaces azureml.exceptions if azureml-core is not installed, and words the errors for Azure's missing names."""

from typing import Any, Dict, NoReturn, Optional

from .entry_script import current
from .failure import CODES

_INSTEAD = {
    "Dataset": "the step's inputs are passed to run(), side_inputs are paths in EntryScript().side_inputs",
    "Datastore": "read files from side_inputs and write them to EntryScript().output_dir",
    "Environment": "set the environment in the step's configuration",
    "Keyvault": "secrets are passed as environment_variables",
    "Model": "set the paths of Model(ws, name), Model.list(ws, name=name) and Model.get_model_path(name) in the models field of"
    " the step's configuration; write other models to the step's output",
    "Run": "use Run.log() for metrics, EntryScript().output_dir for files, environment_variables for secrets",
    "Workspace": "use the inputs, side_inputs, models and output of the step",
    "Experiment": "only its name is available, which is the step's",
    "automl": "a model that was made with it needs its package: add it to the requirements of the step's environment",
    "mltable": "run() gets rows as DataFrames and files as paths; the import command reads MLTable files",
    "data": "the step's inputs are passed to run(), side_inputs are paths in EntryScript().side_inputs",
    "dataprep": "the step's inputs are passed to run(), side_inputs are paths in EntryScript().side_inputs",
    "fsspec": "read files from side_inputs and write them to EntryScript().output_dir",
    "identity": "secrets are passed as environment_variables",
    "interpret": "use interpret-community to explain models, which does not need a workspace",
    "ml": "use the inputs, side_inputs, models and output of the step",
    "mlflow": "use Run.log() for metrics, EntryScript().output_dir for files",
    "monitoring": "use Run.log() for metrics, return rows from run()",
    "pipeline": "call steps in a Prefect flow",
    "storage": "read files from side_inputs and write them to EntryScript().output_dir",
    "telemetry": "use Run.log() for metrics, EntryScript().logger for text",
}
_OTHERWISE = "only Run.get_context(), Model and the exceptions have stand-ins"

_EXCEPTION_NAMES = ("Exception", "Error")  #: suffixes of the names of exceptions


class NoAzureError(AttributeError):
    """The script uses a name that only Azure ML provides."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        if not what.rpartition(".")[2].startswith("__"):  # copy and pickle look for such names
            current.refused = str(self)

    def __str__(self) -> str:
        kind = next((part for part in self.what.split(".") if part in _INSTEAD), "")
        instead = _INSTEAD.get(kind, _OTHERWISE)
        return f"{self.what}: there is no Azure ML workspace here, and its package is not installed; {instead}"


class MissingAzureName(type):
    """A name that can be imported, so that a script that never uses it runs; any use raises NoAzureError.

    It is a class, so that annotations may name it, and so that unpickling its objects reports what is missing.
    """

    _what: str

    def __call__(cls, *_: Any, **__: Any) -> NoReturn:
        """Raise NoAzureError."""
        raise NoAzureError(cls._what)

    def __getattr__(cls, name: str) -> NoReturn:
        raise NoAzureError(f"{cls._what}.{name}")


def absent(what: str) -> type:
    """Return the stand-in for a name such as ``azure.ai.ml.MLClient``: an exception, if named like one, or a MissingAzureName.

    ``except`` clauses of scripts accept only exceptions. azureml-core has each of its exceptions in ``azureml.exceptions``
    and in several other modules; the stand-in is the same class everywhere.
    """
    module, _, name = what.rpartition(".")
    if name.endswith(_EXCEPTION_NAMES):
        is_azureml = module.partition(".")[0] == "azureml"
        return _azureml_exception(name) if is_azureml else type(name, (Exception,), {"__module__": module})

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise NoAzureError(what)

    return MissingAzureName(name, (), {"__module__": module, "_what": what, "__new__": refuse, "__init_subclass__": refuse})


class AzureMLException(Exception):  # noqa: N818  the names are Azure's
    """Base class of Azure's exceptions."""

    def __init__(self, exception_message: str = "", inner_exception: Optional[BaseException] = None, **_: Any) -> None:
        super().__init__(exception_message)
        self.inner_exception = inner_exception

    @property
    def message(self) -> str:
        """The error message."""
        return str(self.args[0]) if self.args else ""


class UserErrorException(AzureMLException):
    """A value is invalid."""


class RunEnvironmentException(AzureMLException):
    """The code does not run inside a run."""


class ModelNotFoundException(AzureMLException):
    """The model does not exist."""


class ParallelRunException(AzureMLException):
    """Raised by run() to control what happens after this failed attempt; child/failure.py reads it.

    Args:
        exception_message: The error message.
        code: ``Retry.NoRetry`` (no further attempt), ``Retry.RestartProcess`` (replace this process),
            ``Retry.StopProcess`` (stop this process without a replacement), ``Retry.Sleep`` or None.
        delay_seconds: Pause before the next mini-batch of this process.

    Raises:
        ValueError: The code is unknown.
    """

    def __init__(self, exception_message: str, code: Optional[str] = None, delay_seconds: float = 0, **more: Any) -> None:
        if code and code not in CODES:
            raise ValueError(f"code: expected {', '.join(CODES)} or None, got {code!r}")
        super().__init__(exception_message, **more)
        self.code, self.delay_seconds = code, delay_seconds


_DEFINED = (AzureMLException, UserErrorException, RunEnvironmentException, ModelNotFoundException, ParallelRunException)
_azureml_exceptions: Dict[str, type] = {kind.__name__: kind for kind in _DEFINED}
for _kind in _DEFINED:
    _kind.__module__ = "azureml.exceptions"  # errors show the name that the script uses


def __getattr__(name: str) -> Any:
    """Return another of Azure's exceptions, which only scripts raise or catch."""
    if not name.endswith(_EXCEPTION_NAMES):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _azureml_exception(name)


def _azureml_exception(name: str) -> type:
    if name not in _azureml_exceptions:
        _azureml_exceptions[name] = type(name, (AzureMLException,), {"__module__": "azureml.exceptions"})
    return _azureml_exceptions[name]
