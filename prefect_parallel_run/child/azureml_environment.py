"""Sets up the environment of a script written for Azure: names of run and step, side inputs, and a folder of models."""

import os
import shutil
from typing import Any, Dict, Tuple

from .entry_script import current

_FOLDER = "azureml-models"


def surround(settings: Dict[str, Any]) -> None:
    """Set the values of the stand-ins and Azure's environment variables; existing variables keep their value.

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
        variables["AZUREML_MODEL_DIR"] = _lay_out_models(current.models, settings["scratch"])
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def _lay_out_models(models: Dict[str, str], scratch: str) -> str:
    """Lay out the models as Azure does, and return the value of AZUREML_MODEL_DIR.

    That is ``azureml-models/NAME/VERSION``, which contains the model's file or folder; with several models, the top folder.
    """
    folders = {}
    for name, path in models.items():
        model, _, version = name.partition(":")
        folder = os.path.join(scratch, _FOLDER, model, version or "1")
        os.makedirs(folder, exist_ok=True)
        target = os.path.join(folder, os.path.basename(path))
        if not os.path.lexists(target):  # NAME and NAME:1 are the same
            _link_or_copy(path, target, ())
        folders[folder] = True
    return next(iter(folders)) if len(folders) == 1 else os.path.join(scratch, _FOLDER)


def _link_or_copy(source: str, target: str, above: Tuple[str, ...]) -> None:
    """Recreate *source* at *target* with real folders, and hard links or else copies of its files.

    MLflow refuses links out of a model's folder. *above* are the parent folders of *source*, to break cycles of links.
    """
    real = os.path.realpath(source)
    if not os.path.isdir(real):
        try:
            os.link(real, target)
        except FileNotFoundError:  # a dangling link is recreated
            os.symlink(source, target)
        except OSError:  # another file system, or one without hard links
            shutil.copy2(real, target)
    elif real not in above:
        os.mkdir(target)
        for name in os.listdir(real):
            _link_or_copy(os.path.join(real, name), os.path.join(target, name), (*above, real))
