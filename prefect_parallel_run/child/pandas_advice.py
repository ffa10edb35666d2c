"""Adds advice to the message of a failure inside pandas 3: scripts for Azure were written for earlier versions."""

import linecache
import re
import sys
import traceback
from types import FrameType, ModuleType
from typing import Any, List, Optional, Set

_FIRST = 3  #: the first major version of pandas that breaks such scripts
_GONE_BEFORE = {  #: attributes that pandas 2 removed: the script would fail with pandas 2 too
    *("append", "iteritems", "lookup", "mad", "slice_shift", "tshift", "is_monotonic"),
    *("np", "datetime", "Int64Index", "UInt64Index", "Float64Index"),
}
_BELOW = ("numpy", "pyarrow", "dateutil")  #: libraries that pandas calls: a failure in them counts as one in pandas
_NO_SCRIPT = ("pandas", *_BELOW, "importlib", "_frozen_importlib")
_OWN_MODULES = f"{__package__}."
_CALL = re.compile(r"([A-Za-z_]\w*)(\.\w+)*\(\) (?:got|takes|missing) ")  #: beginning of Python's TypeError for wrong arguments
_NAMES_AZURE = re.compile("azure|microsoft", re.IGNORECASE)


def pandas_advice(error: BaseException) -> str:
    """Return advice about *error*, or an empty string if it is not a failure of an Azure script inside pandas 3.

    An error that the script raises from one in pandas counts too.
    """
    pandas = sys.modules.get("pandas")
    version = str(getattr(pandas, "__version__", ""))
    if pandas is None or _major(version) < _FIRST:
        return ""
    seen: Set[int] = set()  # exceptions may be each other's causes
    cause: Optional[BaseException] = error
    while cause is not None and id(cause) not in seen:
        frames = [frame for frame, _ in traceback.walk_tb(cause.__traceback__) if not _module(frame).startswith(_OWN_MODULES)]
        if _is_inside(cause, frames, pandas) and _is_azure_script(frames):
            return _advice(version, cause)
        seen.add(id(cause))
        cause = cause.__cause__
    return ""


def _advice(version: str, error: BaseException) -> str:
    text = (
        f"pandas {version} is installed, on which scripts written for pandas 2 may fail. If this script ran in Azure, use the"
        ' older version: environment=Environment(requirements=["pandas<3", …]), where … are the other packages that it'
        " needs (and pyarrow for tabular input)"
    )
    name = getattr(error, "name", None)
    if isinstance(error, AttributeError) and isinstance(name, str) and name in _GONE_BEFORE:
        text += f'. pandas 2 lacks {name!r} too: requirements=["pandas<2", "numpy<2", …], on Python 3.11 or earlier'
    return text


def _is_inside(error: BaseException, frames: List[FrameType], pandas: ModuleType) -> bool:
    """Return whether *error* was raised in pandas, in a call from a script or a library."""
    if all(_is_part_of(_module(frame), *_NO_SCRIPT) for frame in frames):
        return False  # for instance, while reading a file for the script
    modules = [_module(frame) for frame in frames]
    while _is_part_of(modules[-1], *_BELOW):
        modules.pop()
    is_in_pandas = _is_part_of(modules[-1], "pandas")
    if isinstance(error, AttributeError):
        return is_in_pandas or _is_pandas(getattr(error, "obj", None))
    if isinstance(error, TypeError):
        return is_in_pandas or _is_refused_call(_first_argument(error), frames[-1], pandas)
    if isinstance(error, KeyError):  # in pandas 2, series[0] was the first value even without that label
        return is_in_pandas and "pandas.core.series" in modules and type(_first_argument(error)) is int
    return is_in_pandas and isinstance(error, ValueError)


def _first_argument(error: BaseException) -> Any:
    """Return the first argument of an exception; str() may be a method of the script, which can fail."""
    return error.args[0] if error.args else None


def _is_refused_call(text: Any, caller: FrameType, pandas: ModuleType) -> bool:
    """Return whether a TypeError, raised by the call itself, names a function that can only be one of pandas."""
    match = _CALL.match(text) if isinstance(text, str) else None
    if match is None:
        return False
    name, is_method = match[1], match[2] is not None
    if is_method:
        loaded = [vars(module).get(name) for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
        kinds = [value for value in loaded if isinstance(value, type) and value.__name__ == name]
        return bool(kinds) and all(_is_part_of(kind.__module__, "pandas") for kind in kinds)
    names = {**caller.f_globals, **caller.f_locals}
    if name in names:
        return _is_part_of(str(getattr(names[name], "__module__", "")), "pandas")
    holders = [value for value in names.values() if isinstance(value, ModuleType) and name in vars(value)]
    return bool(holders) and all(holder is pandas for holder in holders)


def _is_pandas(value: Any) -> bool:
    """Return whether *value* is a module of pandas, or an instance of one of its classes."""
    name = value.__name__ if isinstance(value, ModuleType) else type(value).__module__
    return _is_part_of(name, "pandas")


def _is_azure_script(frames: List[FrameType]) -> bool:
    """Return whether the script imports azureml, or one of its files mentions Azure."""
    if "azureml" in sys.modules or "azureml_user" in sys.modules:
        return True
    paths = {frame.f_code.co_filename for frame in frames if not _is_part_of(_module(frame), *_NO_SCRIPT)}
    own = [path for path in paths if "site-packages" not in path]
    return any(_NAMES_AZURE.search(line) for path in own for line in linecache.getlines(path))


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_part_of(name: str, *packages: str) -> bool:
    return name.partition(".")[0] in packages


def _major(version: str) -> int:
    major = version.partition(".")[0]
    return int(major) if major.isdecimal() else 0
