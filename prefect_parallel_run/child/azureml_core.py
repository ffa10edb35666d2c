"""Replaces Run, Experiment, Workspace and Model of azureml.core if azureml-core is not installed.

Metrics and tags are logged; the names are those of the step; models have the paths of the step's configuration.
"""

import json
import os
import shutil
import time
from types import TracebackType
from typing import Any, Dict, List, NoReturn, Optional, Tuple, Type

from .azureml_errors import ModelNotFoundException, NoAzureError
from .entry_script import EntryScript, current
from .failure import without_secrets
from .rows_jsonl import plain, without_nan

_MOST_BYTES = 10_000_000  #: of one process
_LONGEST_IN_LOG = 200  #: characters
_ENCODE = json.JSONEncoder(ensure_ascii=False, default=plain, separators=(",", ":")).encode


class Model:
    """A model of the step's configuration.

    Args:
        workspace: Ignored.
        name: Name in the configuration's ``models``.
        version: ``NAME:VERSION`` in ``models`` has precedence over ``NAME``.

    Attributes:
        name: Name without the version.
        version: An integer if it is a number, as in Azure; 1 for a model that is configured without a version.
        id: ``NAME:VERSION``.

    Raises:
        ModelNotFoundException: The model is not configured.
    """

    def __init__(self, workspace: Any = None, name: str = "", id: Optional[str] = None, version: Any = None, **_: Any) -> None:  # noqa: A002  Azure's name
        self.name, _colon, version_in_name = (id or name).partition(":")
        self._path, resolved = _find(self.name, version if version is not None else (version_in_name or None))
        self.version = int(resolved) if resolved.isdecimal() else resolved
        self.workspace, self.id = workspace, f"{self.name}:{self.version}"

    @staticmethod
    def get_model_path(model_name: str, version: Any = None, _workspace: Any = None) -> str:
        """Return the path of a model: from ``models``, else the file of that name in ``AZUREML_MODEL_DIR``.

        Without a version, it is the model that is configured without one, else the newest.
        """
        return _find(model_name, version)[0]

    def download(self, target_dir: str = ".", exist_ok: bool = False, exists_ok: Optional[bool] = None) -> str:
        """Copy the model into a folder and return the path of the copy."""
        target = os.path.join(target_dir, os.path.basename(self._path))
        if os.path.exists(target) and not (exist_ok or exists_ok):
            raise FileExistsError(f"{target} exists; pass exist_ok=True")
        os.makedirs(target_dir, exist_ok=True)
        if os.path.isdir(self._path):
            shutil.copytree(self._path, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(self._path, target)
        return target

    @staticmethod
    def register(*_: Any, **__: Any) -> NoReturn:
        """Raise NoAzureError: models cannot be registered here."""
        raise NoAzureError("azureml.core.Model.register")

    @staticmethod
    def list(
        workspace: Any = None,
        name: Optional[str] = None,
        tags: Any = None,
        properties: Any = None,  # noqa: ARG004  Azure's name
        run_id: Any = None,  # noqa: ARG004  Azure's name
        latest: Optional[bool] = None,
        **_: Any,
    ) -> "List[Model]":
        """Return the versions of a model, or of all models: ``Model(workspace, name)`` first and then the newest.

        Args:
            workspace: Ignored.
            name: Name of the model; None for all models.
            tags: Not supported: the models of a configuration have no tags.
            properties: Ignored: models are selected by name only.
            run_id: Ignored: models are selected by name only.
            latest: Return only the first version of each model.

        Raises:
            ModelNotFoundException: The model *name* is not configured.
            NoAzureError: Tags were passed.
        """
        if tags:
            raise NoAzureError("azureml.core.Model.list(tags=…)")
        names = [name] if name else dict.fromkeys(known.partition(":")[0] for known in current.models)
        return [model for name in names for model in _versions(workspace, name)[: 1 if latest else None]]

    def __getattr__(self, name: str) -> NoReturn:
        raise NoAzureError(f"azureml.core.Model.{name}")


def _find(name: str, version: Any) -> Tuple[str, str]:
    """Return path and version of a model, in the order of ``Model.get_model_path``."""
    for known in ([f"{name}:{version}"] if version is not None else []) + [name]:
        if known in current.models:
            return current.models[known], str(version or 1)  # a model without a version is version 1, as in AZUREML_MODEL_DIR
    versions = _known_versions(name)
    if versions and version is None:
        return current.models[versions[0]], versions[0].partition(":")[2]
    folder = os.environ.get("AZUREML_MODEL_DIR", "")
    path = os.path.join(folder, name) if folder and name and not versions else ""
    if path and os.path.exists(path):
        return path, str(version or 1)
    known = ", ".join(sorted(current.models)) or "none"
    raise ModelNotFoundException(
        f"model {name!r} is not configured; add models={{{name!r}: path}} to the step's configuration; known models: {known}"
    )


def _versions(workspace: Any, name: str) -> "List[Model]":
    """Return the models of one name: the one that the name means without a version, then the others, the newest first."""
    first = Model(workspace, name)
    others = [Model(workspace, id=known) for known in _known_versions(name)]
    return [first, *(model for model in others if model.version != first.version)]


def _known_versions(name: str) -> "List[str]":
    """Return ``NAME:VERSION`` of every configured version of a model, the newest first."""
    return sorted((known for known in current.models if known.startswith(f"{name}:")), key=_version_key, reverse=True)


def _version_key(name: str) -> Tuple[bool, int, str]:
    """Return a sort key for versions: numbers are compared as integers, and are newer than other strings."""
    version = name.partition(":")[2]
    return version.isdecimal(), int(version) if version.isdecimal() else 0, version


class Workspace:
    """A stand-in for the workspace that a script passes on; it only has the models of the step's configuration."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise NoAzureError("azureml.core.Workspace")

    @property
    def models(self) -> "Dict[str, Model]":
        """The models of the step's configuration by name."""
        return {model.name: model for model in Model.list(self, latest=True)}

    def __getattr__(self, name: str) -> NoReturn:
        raise NoAzureError(f"azureml.core.Workspace.{name}")


class Experiment:
    """A stand-in with the step's name."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self.workspace, self.name = workspace, name

    def __getattr__(self, name: str) -> NoReturn:
        raise NoAzureError(f"azureml.core.Experiment.{name}")


class Run:
    """The run of the script; a singleton. Unsupported attributes raise an error that names the alternative.

    Attributes:
        id: Name of the run directory: the same in every process, and after a resume.
        name, display_name: Name of the step.
        number: 1.
        status, type: As of a running step in Azure.
        experiment: An experiment with the step's name.
        parent: This run: it has no parent.
        input_datasets: Paths of the side inputs by name.
    """

    number, status, type = 1, "Running", "azureml.StepRun"

    def __init__(self, *_: Any, **__: Any) -> None:
        raise NoAzureError("azureml.core.Run")

    @classmethod
    def get_context(cls, *_: Any, **__: Any) -> "Run":
        """Return the run."""
        return _run

    @property
    def id(self) -> str:
        """Name of the run directory."""
        return current.run_id

    @property
    def name(self) -> str:
        """The step's name."""
        return current.step

    display_name = name

    @property
    def experiment(self) -> Experiment:
        """An experiment with the step's name and the stand-in workspace."""
        return Experiment(_workspace, current.step)

    @property
    def parent(self) -> "Run":
        """This run."""
        return self

    @property
    def input_datasets(self) -> Dict[str, str]:
        """Paths of the side inputs by name."""
        return dict(EntryScript.side_inputs)

    # Metrics

    def log(self, name: str, value: Any, description: str = "", step: Optional[int] = None) -> None:
        """Log a number or a string."""
        self._log(name, value=value, description=description, step=step)

    def log_list(self, name: str, value: "List[Any]", description: str = "") -> None:
        """Log a list."""
        self._log(name, value=list(value), description=description)

    def log_row(self, name: str, description: Optional[str] = None, **kwargs: Any) -> None:
        """Log a row of named values."""
        self._log(name, value=kwargs, description=description)

    def log_table(self, name: str, value: "Dict[str, Any]", description: str = "") -> None:
        """Log columns of values."""
        self._log(name, value=value, description=description)

    log_accuracy_table = log_confusion_matrix = log_predictions = log_residuals = log_table

    def log_image(self, name: str, path: Optional[str] = None, plot: Any = None, description: str = "") -> None:  # noqa: ARG002
        """Log the path of an image; one that is only in memory must first be saved to the output."""
        if path is None:
            raise NoAzureError("azureml.core.Run.log_image(plot=…)")
        self._log(name, value=str(path), description=description)

    # Tags and properties: of this process, and logged like metrics

    def get_tags(self) -> Dict[str, str]:
        """Return the tags that this process has set."""
        return dict(_tags)

    tags = property(get_tags)

    def get_properties(self) -> Dict[str, str]:
        """Return the properties that this process has added."""
        return dict(_properties)

    properties = property(get_properties)

    def tag(self, key: str, value: Optional[str] = None) -> None:
        """Set a tag."""
        _tags[key] = "" if value is None else str(value)
        self._log(key, tag=_tags[key])

    def set_tags(self, tags: Dict[str, str]) -> None:
        """Set some tags."""
        for key, value in tags.items():
            self.tag(key, value)

    def remove_tags(self, tags: Any) -> "List[str]":
        """Remove some tags; return their keys."""
        keys = [tags] if isinstance(tags, str) else list(tags)
        return [key for key in keys if _tags.pop(key, None) is not None]

    def add_properties(self, properties: Dict[str, str]) -> None:
        """Add some properties."""
        _properties.update(properties)
        for key, value in properties.items():
            self._log(key, property=value)

    # Azure's methods for the state of a run: here, the exit of the process decides it

    def get_status(self) -> str:
        """Return "Running"."""
        return self.status

    def start(self) -> None:
        """Do nothing: the run has started."""

    def complete(self, _set_status: bool = True) -> None:
        """Do nothing: other processes are still working."""

    def flush(self, timeout_seconds: float = 300) -> None:
        """Do nothing: every line is written immediately."""

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        pass

    def __getattr__(self, name: str) -> NoReturn:
        raise NoAzureError(f"azureml.core.Run.{name}")

    def __repr__(self) -> str:
        return f"Run(id={self.id!r})"

    def _log(self, name: str, **values: Any) -> None:
        global _metrics  # noqa: PLW0603  one file per process, opened with the first metric
        if _metrics is None:
            _metrics = Metrics(current.metrics_file)
        fields = {key: value for key, value in values.items() if key not in ("description", "step") or value not in ("", None)}
        _metrics.add(name, **fields)


class Metrics:
    """Appends to ``<log_dir>/<process>.metrics.jsonl``; metrics beyond the limit are dropped, with one warning."""

    def __init__(self, path: str) -> None:
        self._path, self._bytes = path, 0

    def add(self, name: str, **fields: Any) -> None:
        """Write one metric: ``value`` or other fields, with the running mini-batch."""
        if self._bytes > _MOST_BYTES:
            return
        context: Dict[str, Any] = {"time": time.time(), "name": str(name)}
        if current.mini_batch is not None:
            context.update(mini_batch=current.mini_batch, attempt=current.attempt)
        line = without_secrets(_ENCODE(without_nan({**context, **fields})))
        self._write(line)
        text = _ENCODE(without_nan(fields.get("value", fields)))
        text = text if len(text) <= _LONGEST_IN_LOG else f"{text[:_LONGEST_IN_LOG]}…"
        EntryScript.logger.info("%s = %s", name, text)
        if self._bytes > _MOST_BYTES:
            self._write(json.dumps({"note": f"more than {_MOST_BYTES} bytes: further metrics of this process are dropped"}))
            EntryScript.logger.warning("%s has more than %d bytes; further metrics are dropped", self._path, _MOST_BYTES)

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        with open(self._path, "ab") as file:
            file.write(data)
        self._bytes += len(data)


def get_run(*_: Any, **__: Any) -> NoReturn:
    """Raise NoAzureError: runs cannot be fetched."""
    raise NoAzureError("azureml.core.get_run")


class _OfflineRun(Run):
    """Azure's class for code outside of a run, for isinstance checks of scripts; it is never created."""


_SubmittedRun = Run
_workspace = object.__new__(Workspace)
_run = object.__new__(Run)
_metrics: Optional[Metrics] = None
_tags: Dict[str, str] = {}
_properties: Dict[str, str] = {}
for _kind in (Workspace, Experiment, Run, _OfflineRun):
    _kind.__module__ = "azureml.core"
Model.__module__ = "azureml.core.model"
