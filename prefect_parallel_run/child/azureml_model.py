"""Replaces azureml.core's Model if azureml-core is not installed: models have the paths of the step's configuration."""

import os
import shutil
from typing import Any, List, NoReturn, Optional, Tuple

from .azureml_errors import ModelNotFoundException, NoAzureError
from .entry_script import current


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


Model.__module__ = "azureml.core.model"
