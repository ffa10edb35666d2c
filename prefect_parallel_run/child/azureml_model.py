"""In place of azureml.core's Model, where azureml-core is not installed: the paths that the configuration gives models."""

import os
import shutil
from typing import Any, List, NoReturn, Optional, Tuple

from .azureml_errors import ModelNotFoundException, NoAzureError
from .context import current


class Model:
    """A model of the step's configuration.

    Args:
        workspace: Whatever the script has; not looked at.
        name: As in the configuration's ``models``.
        version: ``NAME:VERSION`` there comes before ``NAME``.

    Attributes:
        name: Without a version.
        version: As in Azure an integer where it is a number; 1 for a model that is configured without one.
        id: ``NAME:VERSION``.

    Raises:
        ModelNotFoundException: There is no such model.
    """

    def __init__(self, workspace: Any = None, name: str = "", id: Optional[str] = None, version: Any = None, **_: Any) -> None:  # noqa: A002  Azure's name
        self.name, _colon, given = (id or name).partition(":")
        self._path, found = _find(self.name, version if version is not None else (given or None))
        self.version = int(found) if found.isdecimal() else found
        self.workspace, self.id = workspace, f"{self.name}:{self.version}"

    @staticmethod
    def get_model_path(model_name: str, version: Any = None, _workspace: Any = None) -> str:
        """Return the path of a model: that of ``models``, else what lies below ``AZUREML_MODEL_DIR`` under that name.

        Without a version it is the one that has none there, else the newest.
        """
        return _find(model_name, version)[0]

    def download(self, target_dir: str = ".", exist_ok: bool = False, exists_ok: Optional[bool] = None) -> str:
        """Copy the model into a folder and return where it is then."""
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
        """Say that nothing is registered here."""
        raise NoAzureError("azureml.core.Model.register")

    @staticmethod
    def list(
        workspace: Any = None,
        name: Optional[str] = None,
        tags: Any = None,
        properties: Any = None,  # noqa: ARG004  Azure's name
        run_id: Any = None,  # noqa: ARG004  the same
        latest: Optional[bool] = None,
        **_: Any,
    ) -> "List[Model]":
        """Return the versions of a model, ``Model(workspace, name)`` first and then the newest; without a name those of all.

        Args:
            workspace: As for a Model.
            name: As for a Model.
            tags: Refused: the models of a configuration have none.
            properties: Not looked at: names alone select, as for a Model.
            run_id: The same.
            latest: Only the first version of each model.

        Raises:
            ModelNotFoundException: There is no model *name*.
            NoAzureError: Tags were given.
        """
        if tags:
            raise NoAzureError("azureml.core.Model.list(tags=…)")
        names = [name] if name else dict.fromkeys(known.partition(":")[0] for known in current.models)
        return [model for name in names for model in _versions(workspace, name)[: 1 if latest else None]]

    def __getattr__(self, name: str) -> NoReturn:
        raise NoAzureError(f"azureml.core.Model.{name}")


def _find(name: str, version: Any) -> Tuple[str, str]:
    """Return path and version of a model; its docstring says in which order they are looked for."""
    for known in ([f"{name}:{version}"] if version is not None else []) + [name]:
        if known in current.models:
            return current.models[known], str(version or 1)  # one without a version is the first, as in AZUREML_MODEL_DIR
    versions = _known_versions(name)
    if versions and version is None:
        return current.models[versions[0]], versions[0].partition(":")[2]
    folder = os.environ.get("AZUREML_MODEL_DIR", "")
    beside = os.path.join(folder, name) if folder and name and not versions else ""
    if beside and os.path.exists(beside):
        return beside, str(version or 1)
    known = ", ".join(sorted(current.models)) or "none"
    raise ModelNotFoundException(
        f"there is no model {name!r}; models={{{name!r}: path}} in the step's configuration gives it a path; known: {known}"
    )


def _versions(workspace: Any, name: str) -> "List[Model]":
    """Return the models of one name: the one that the bare name means, then its other versions, the newest first."""
    first = Model(workspace, name)
    others = [Model(workspace, id=known) for known in _known_versions(name)]
    return [first, *(model for model in others if model.version != first.version)]


def _known_versions(name: str) -> "List[str]":
    """Return ``NAME:VERSION`` of every version that the configuration has of a model, the newest first."""
    return sorted((known for known in current.models if known.startswith(f"{name}:")), key=_age, reverse=True)


def _age(name: str) -> Tuple[bool, int, str]:
    """Return what the newer version of a model has more of: numbers count as numbers, and are newer than words."""
    version = name.partition(":")[2]
    return version.isdecimal(), int(version) if version.isdecimal() else 0, version


Model.__module__ = "azureml.core.model"
