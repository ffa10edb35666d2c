"""Describes an exception of the script as text, without secrets, and reads its requests: about retries, a pause, its process.

NoRetry and RetryLater are recognized by their names: a script may run where this package is not installed, with classes of its
own. Azure's ParallelRunException has the requests in ``code`` and ``delay_seconds``. It is recognized by its name, too: the
script raises the real one if azureml-core is installed, else the stand-in (azureml_errors.py). A failure inside pandas 3 gets
advice, because scripts for Azure were written for earlier versions.
"""

import hashlib
import json
import linecache
import os
import re
import sys
import traceback
from types import FrameType, ModuleType
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, Set

_OWN_MODULES = f"{__package__}."  #: error types of these modules are shown without the module
_OWN_FOLDER = os.path.dirname(os.path.abspath(__file__))
_LONGEST_TEXT = 4_000  #: characters of an exception's text that are kept
_LONGEST_TRACEBACK = 20_000
_SHORTEST_SECRET = 4  #: characters
RESTART, STOP = "restart", "stop"  #: exit with or without a replacement
CODES = ("Retry.NoRetry", "Retry.Sleep", "Retry.RestartProcess", "Retry.StopProcess")
_LONGEST_PAUSE = 1e9  #: s
_LEAVES = {"Retry.RestartProcess": RESTART, "Retry.StopProcess": STOP}
_FIRST = 3  #: the first major version of pandas that breaks such scripts
_GONE_BEFORE = {  #: attributes that pandas 2 removed: the script would fail with pandas 2 too
    *("append", "iteritems", "lookup", "mad", "slice_shift", "tshift", "is_monotonic"),
    *("np", "datetime", "Int64Index", "UInt64Index", "Float64Index"),
}
_BELOW = ("numpy", "pyarrow", "dateutil")  #: libraries that pandas calls: a failure in them counts as one in pandas
_NO_SCRIPT = ("pandas", *_BELOW, "importlib", "_frozen_importlib")
_CALL = re.compile(r"([A-Za-z_]\w*)(\.\w+)*\(\) (?:got|takes|missing) ")  #: beginning of Python's TypeError for wrong arguments
_NAMES_AZURE = re.compile("azure|microsoft", re.IGNORECASE)


class Failure(NamedTuple):
    """The description of an exception."""

    type: str
    text: str
    traceback: str
    fingerprint: str
    final: bool  #: the script asked for no further attempt
    retry_after: Optional[float]  #: s before the next attempt, as the script asked; None: as configured


_secrets: List[str] = []


def keep_secret(values: Iterable[str]) -> None:
    """Remove these strings from every later description, except very short ones, which would hide too much."""
    _secrets[:] = secret_forms(values)


def secret_forms(values: Iterable[str]) -> List[str]:
    """Return the strings that ``without_secrets`` replaces to hide *values*, the longest first."""
    forms = {form for value in values for form in _forms(value) if len(form) >= _SHORTEST_SECRET}
    return sorted(forms, key=len, reverse=True)


def _forms(value: str) -> Iterator[str]:
    """Yield the forms in which a string may occur in another: unchanged, as Python or JSON write it, and line by line."""
    yield value
    yield repr(value)[1:-1]
    yield json.dumps(value)[1:-1]
    yield from (line.strip() for line in value.splitlines())


def without_secrets(text: str, secrets: Optional[List[str]] = None) -> str:
    """Return *text* with the values of the step's environment variables, or other *secrets*, replaced by asterisks."""
    for secret in _secrets if secrets is None else secrets:
        text = text.replace(secret, "***")
    return text


def describe(error: BaseException) -> Failure:
    """Describe *error*, without the frames of this package.

    Advice about the cause, if there is some, is a separate line after the error's message.
    """
    name, directive = _clean(_name(error)), retry_directive(error)
    text = "\n".join(filter(None, (_text(error), pandas_advice(error))))
    return Failure(
        name,
        shorten(_clean(text), _LONGEST_TEXT),
        shorten(_clean(_traceback(error, set())), _LONGEST_TRACEBACK),
        fingerprint(name, *_locations(error)),
        directive.final,
        directive.retry_after,
    )


def fingerprint(*parts: str) -> str:
    """Return a short hash that is equal for failures of one cause, independent of their messages."""
    return hashlib.sha256("\n".join(parts).encode("utf-8", "replace")).hexdigest()[:12]


def storable(text: object) -> str:
    """Return *text* with escapes for what UTF-8 cannot encode: a file name may contain undecodable bytes."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def _clean(text: str) -> str:
    return storable(without_secrets(text))


def _name(error: BaseException) -> str:
    kind = type(error)
    is_known = kind.__module__ in ("builtins", "__main__") or kind.__module__.startswith(_OWN_MODULES)
    return kind.__qualname__ if is_known else f"{kind.__module__}.{kind.__qualname__}"


def _text(error: BaseException) -> str:
    """Return an exception's message, without the line with the type's name that Azure's exceptions start with."""
    heading = f"{type(error).__name__}:\n"
    try:
        text = str(error)
        return text[len(heading) :].lstrip() if text.startswith(heading) else text
    except Exception as second:  # noqa: BLE001  a failing __str__ of the script must not hide the first error
        return f"<str() of the exception raised {type(second).__name__}>"


def _frames(error: BaseException) -> "List[traceback.FrameSummary]":
    frames = traceback.extract_tb(error.__traceback__)
    return [f for f in frames if not os.path.abspath(f.filename).startswith(_OWN_FOLDER) and "importlib" not in f.filename]


def _locations(error: BaseException) -> List[str]:
    return [f"{os.path.basename(f.filename)}:{f.name}:{f.lineno}" for f in _frames(error)]


def _traceback(error: BaseException, seen: Set[int]) -> str:
    seen.add(id(error))
    head = traceback.format_list(_frames(error))
    if head:
        head.insert(0, "Traceback (most recent call last):\n")
    try:
        tail = [_with_short_name(error, line) for line in traceback.format_exception_only(type(error), error)]
    except Exception:  # noqa: BLE001  a failing __str__ of the script
        tail = [f"{_name(error)}: {_text(error)}\n"]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = []
    if cause is not None and id(cause) not in seen:  # exceptions may be each other's causes
        before = [_traceback(cause, seen), "\nThe exception above led to this one:\n\n"]
    return "".join(before + head + tail)


def _with_short_name(error: BaseException, line: str) -> str:
    """Return a line that starts with the type of *error*, with the name that _name gives it."""
    kind = type(error)
    full_name = f"{kind.__module__}.{kind.__qualname__}"
    return _name(error) + line[len(full_name) :] if line.startswith(full_name) else line


def shorten(text: str, longest: int) -> str:
    """Return *text* without its middle if it is too long: the last line of a traceback names the error."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"


class RetryDirective(NamedTuple):
    """The requests of a script."""

    final: bool = False  #: another attempt cannot help
    leave: str = ""  #: RESTART or STOP: this process exits once it has answered
    pause: float = 0.0  #: s until the next mini-batch of this process, or of its replacement
    retry_after: Optional[float] = None  #: s until the next attempt at this mini-batch, in any process; None: as configured


def retry_directive(error: BaseException) -> RetryDirective:
    """Return the requests of *error*: NoRetry by class or ``code`` of that name, RetryLater by its class, others by Azure's."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    code = getattr(error, "code", None)
    code = getattr(code, "name", code)
    is_final = "NoRetry" in kinds or (isinstance(code, str) and code in ("NoRetry", "Retry.NoRetry"))
    if "ParallelRunException" not in kinds:
        return RetryDirective(
            is_final, retry_after=_seconds(getattr(error, "seconds", None)) if "RetryLater" in kinds else None
        )
    return RetryDirective(is_final, _LEAVES.get(str(code), ""), _seconds(getattr(error, "delay_seconds", None)) or 0.0)


def _seconds(value: Any) -> Optional[float]:
    """Return a number of seconds within bounds; None for what is not a number."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _LONGEST_PAUSE) if seconds == seconds else None  # noqa: PLR0124  NaN


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
