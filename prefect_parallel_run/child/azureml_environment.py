"""What a script of Azure's finds in its environment: the names of run and step, side inputs, and a folder with its models."""

import os
import shutil
from typing import Any, Dict, Tuple

from .context import current

_FOLDER = "azureml-models"


def surround(settings: Dict[str, Any]) -> None:
    """Set up what the stand-ins tell, and the variables that scripts read; one that is set already stays.

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
        variables["AZUREML_MODEL_DIR"] = _show_models(current.models, settings["scratch"])
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def _show_models(models: Dict[str, str], scratch: str) -> str:
    """Lay the models into a folder that is laid out as Azure's, and return what Azure calls their directory there.

    That is ``azureml-models/NAME/VERSION``, with the model's own file or folder in it; with several models the top of it.
    """
    folders = {}
    for name, path in models.items():
        bare, _, version = name.partition(":")
        folder = os.path.join(scratch, _FOLDER, bare, version or "1")
        os.makedirs(folder, exist_ok=True)
        target = os.path.join(folder, os.path.basename(path))
        if not os.path.lexists(target):  # NAME and NAME:1 are the same
            _lay(path, target, ())
        folders[folder] = True
    return next(iter(folders)) if len(folders) == 1 else os.path.join(scratch, _FOLDER)


def _lay(source: str, target: str, above: Tuple[str, ...]) -> None:
    """Have what is at *source* really at *target*: folders are made, files are hard links, else copies.

    MLflow refuses links that lead out of a model's folder. *above* are the folders that *source* lies in: no link leads back.
    """
    real = os.path.realpath(source)
    if not os.path.isdir(real):
        try:
            os.link(real, target)
        except FileNotFoundError:  # a link that leads nowhere stays one
            os.symlink(source, target)
        except OSError:  # another file system, or one without hard links
            shutil.copy2(real, target)
    elif real not in above:
        os.mkdir(target)
        for name in os.listdir(real):
            _lay(os.path.join(real, name), os.path.join(target, name), (*above, real))
