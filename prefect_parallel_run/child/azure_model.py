"""In place of azureml.core's Model, where azureml-core is not installed: the paths that the configuration gives models."""

import os
import shutil
from typing import Any, NoReturn, Optional, Tuple

from .azure_errors import ModelNotFoundException, NoAzureError
from .context import current


class Model:
    """A model of the step's configuration.

    Args:
        workspace: Whatever the script has; not looked at.
        name: As in the configuration's ``models``.
        version: ``NAME:VERSION`` there comes before ``NAME``.

    Raises:
        ModelNotFoundException: There is no such model.
    """

    def __init__(self, workspace: Any = None, name: str = "", id: Optional[str] = None, version: Any = None, **_: Any) -> None:  # noqa: A002  Azure's name
        name, _colon, found = (id or name).partition(":")
        self.name, self.version = name, version if version is not None else (found or None)
        self.workspace, self._path = workspace, Model.get_model_path(self.name, self.version)

    @staticmethod
    def get_model_path(model_name: str, version: Any = None, _workspace: Any = None) -> str:
        """Return the path of a model: that of ``models``, else what lies below ``AZUREML_MODEL_DIR`` under that name.

        Without a version it is the one that has none there, else the newest.
        """
        for name in ([f"{model_name}:{version}"] if version is not None else []) + [model_name]:
            if name in current.models:
                return current.models[name]
        versions = [name for name in current.models if name.partition(":")[0] == model_name]
        if versions and version is None:
            return current.models[max(versions, key=_age)]
        folder = os.environ.get("AZUREML_MODEL_DIR", "")
        beside = os.path.join(folder, model_name) if folder and model_name and not versions else ""
        if beside and os.path.exists(beside):
            return beside
        known = ", ".join(sorted(current.models)) or "none"
        raise ModelNotFoundException(
            f"there is no model {model_name!r}; models={{{model_name!r}: path}} in the step's configuration gives it a path;"
            f" known: {known}"
        )

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
    def list(*_: Any, **__: Any) -> NoReturn:
        """Say that there is no list."""
        raise NoAzureError("azureml.core.Model.list")

    def __getattr__(self, name: str) -> NoReturn:
        raise NoAzureError(f"azureml.core.Model.{name}")


def _age(name: str) -> Tuple[bool, int, str]:
    """Return what the newer version of a model has more of: numbers count as numbers, and are newer than words."""
    version = name.partition(":")[2]
    return version.isdecimal(), int(version) if version.isdecimal() else 0, version


Model.__module__ = "azureml.core.model"
