"""In place of azureml.exceptions, where azureml-core is not installed; and what is said of Azure's names that are not here."""

from typing import Any, Dict, NoReturn, Optional

from .context import current
from .retry import CODES

_INSTEAD = {
    "Dataset": "the step's inputs come to run(), side_inputs are paths: EntryScript().side_inputs",
    "Datastore": "files are read from side_inputs and written below EntryScript().output_dir",
    "Environment": "the step's configuration has an environment",
    "Keyvault": "secrets come as environment_variables",
    "Model": "the models field of the step's configuration gives Model(ws, name), Model.list(ws, name=name) and"
    " Model.get_model_path(name) their paths; other models are files below the step's output",
    "Run": "metrics go to Run.log(), files below EntryScript().output_dir, secrets come as environment_variables",
    "Workspace": "inputs, side_inputs, models and output are those of the step",
    "Experiment": "its name is there, and that is the step's",
    "automl": "a model that was made with it needs its package: put it into the requirements of the step's environment",
    "mltable": "rows come to run() as DataFrames, files as paths; the import command reads MLTable files",
    "data": "the step's inputs come to run(), side_inputs are paths: EntryScript().side_inputs",
    "dataprep": "the step's inputs come to run(), side_inputs are paths: EntryScript().side_inputs",
    "fsspec": "files are read from side_inputs and written below EntryScript().output_dir",
    "identity": "secrets come as environment_variables",
    "interpret": "models are explained with interpret-community, which needs no workspace",
    "ml": "inputs, side_inputs, models and output are those of the step",
    "mlflow": "metrics go to Run.log(), files below EntryScript().output_dir",
    "monitoring": "metrics go to Run.log(), rows are returned from run()",
    "pipeline": "steps are called in a Prefect flow",
    "storage": "files are read from side_inputs and written below EntryScript().output_dir",
    "telemetry": "metrics go to Run.log(), text to EntryScript().logger",
}
_OTHERWISE = "only Run.get_context(), Model and the exceptions are stood in for"

_EXCEPTION_NAMES = ("Exception", "Error")  #: how the names of exceptions end


class NoAzureError(AttributeError):
    """The script uses something that only Azure ML has."""

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
    """A name that can be imported, so that a script which never comes to use it runs; any use is a NoAzureError.

    It is a class, which annotations may name, and which says what is missing when a pickle has objects of it.
    """

    _what: str

    def __call__(cls, *_: Any, **__: Any) -> NoReturn:
        """Say that there is none."""
        raise NoAzureError(cls._what)

    def __getattr__(cls, name: str) -> NoReturn:
        raise NoAzureError(f"{cls._what}.{name}")


def absent(what: str) -> type:
    """Return what stands for a name, such as ``azure.ai.ml.MLClient``: an exception for the name of one, else an Absent.

    Scripts name exceptions in ``except`` clauses, which accept nothing else. azureml-core keeps each of its exceptions in
    ``azureml.exceptions`` and in several other modules; the stand-in is the same class everywhere.
    """
    module, _, name = what.rpartition(".")
    if name.endswith(_EXCEPTION_NAMES):
        is_azureml = module.partition(".")[0] == "azureml"
        return _azureml_exception(name) if is_azureml else type(name, (Exception,), {"__module__": module})

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise NoAzureError(what)

    return MissingAzureName(name, (), {"__module__": module, "_what": what, "__new__": refuse, "__init_subclass__": refuse})


class AzureMLException(Exception):  # noqa: N818  the names are Azure's
    """The base of Azure's exceptions."""

    def __init__(self, exception_message: str = "", inner_exception: Optional[BaseException] = None, **_: Any) -> None:
        super().__init__(exception_message)
        self.inner_exception = inner_exception

    @property
    def message(self) -> str:
        """What happened."""
        return str(self.args[0]) if self.args else ""


class UserErrorException(AzureMLException):
    """A value is wrong."""


class RunEnvironmentException(AzureMLException):
    """There is no run."""


class ModelNotFoundException(AzureMLException):
    """There is no model of that name."""


class ParallelRunException(AzureMLException):
    """Says from run() how to go on after this failed try; child/retry.py reads it.

    Args:
        exception_message: What happened.
        code: ``Retry.NoRetry`` (the mini-batch has failed for good), ``Retry.RestartProcess`` (another process takes the place
            of this one), ``Retry.StopProcess`` (no other does), ``Retry.Sleep`` or None.
        delay_seconds: Until the next mini-batch of this process.

    Raises:
        ValueError: There is no such code.
    """

    def __init__(self, exception_message: str, code: Optional[str] = None, delay_seconds: float = 0, **more: Any) -> None:
        if code and code not in CODES:
            raise ValueError(f"code is {code!r}; accepted: {', '.join(CODES)}, or None")
        super().__init__(exception_message, **more)
        self.code, self.delay_seconds = code, delay_seconds


_DEFINED = (AzureMLException, UserErrorException, RunEnvironmentException, ModelNotFoundException, ParallelRunException)
_azureml_exceptions: Dict[str, type] = {kind.__name__: kind for kind in _DEFINED}
for _kind in _DEFINED:
    _kind.__module__ = "azureml.exceptions"  # an error's type is shown as the script knows it


def __getattr__(name: str) -> Any:
    """Return one of Azure's other exceptions: nothing here raises it, but scripts catch it, or raise it themselves."""
    if not name.endswith(_EXCEPTION_NAMES):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _azureml_exception(name)


def _azureml_exception(name: str) -> type:
    if name not in _azureml_exceptions:
        _azureml_exceptions[name] = type(name, (AzureMLException,), {"__module__": "azureml.exceptions"})
    return _azureml_exceptions[name]
