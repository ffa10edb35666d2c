"""Describes an exception of the script as text, without secrets, and reads its requests: no retry, a pause, another process.

Azure's ParallelRunException has the requests in ``code`` and ``delay_seconds``. It is recognized by its name: the script raises
the real one if azureml-core is installed, else the stand-in (azureml_errors.py).
"""

import hashlib
import json
import os
import traceback
from typing import Any, Iterable, Iterator, List, NamedTuple, Set

from .pandas_advice import pandas_advice

_OWN_MODULES = f"{__package__}."  #: error types of these modules are shown without the module
_OWN_FOLDER = os.path.dirname(os.path.abspath(__file__))
_LONGEST_TEXT = 4_000  #: characters of an exception's text that are kept
_LONGEST_TRACEBACK = 20_000
_SHORTEST_SECRET = 4  #: characters
RESTART, STOP = "restart", "stop"  #: exit with or without a replacement
CODES = ("Retry.NoRetry", "Retry.Sleep", "Retry.RestartProcess", "Retry.StopProcess")
_LONGEST_PAUSE = 1e9  #: s
_LEAVES = {"Retry.RestartProcess": RESTART, "Retry.StopProcess": STOP}


class Failure(NamedTuple):
    """The description of an exception."""

    type: str
    text: str
    traceback: str
    fingerprint: str
    final: bool  #: the script asked for no further attempt


_secrets: List[str] = []


def keep_secret(values: Iterable[str]) -> None:
    """Remove these strings from every later description, except very short ones, which would hide too much."""
    forms = {form for value in values for form in _forms(value) if len(form) >= _SHORTEST_SECRET}
    _secrets[:] = sorted(forms, key=len, reverse=True)


def _forms(value: str) -> Iterator[str]:
    """Yield the forms in which a string may occur in another: unchanged, as Python or JSON write it, and line by line."""
    yield value
    yield repr(value)[1:-1]
    yield json.dumps(value)[1:-1]
    yield from (line.strip() for line in value.splitlines())


def without_secrets(text: str) -> str:
    """Return *text* with the values of the step's environment variables replaced by asterisks."""
    for secret in _secrets:
        text = text.replace(secret, "***")
    return text


def describe(error: BaseException) -> Failure:
    """Describe *error*, without the frames of this package.

    Advice about the cause, if there is some, is a separate line after the error's message.
    """
    name = _clean(_name(error))
    text = "\n".join(filter(None, (_text(error), pandas_advice(error))))
    return Failure(
        name,
        _shorten(_clean(text), _LONGEST_TEXT),
        _shorten(_clean(_traceback(error, set())), _LONGEST_TRACEBACK),
        fingerprint(name, *_locations(error)),
        retry_directive(error).final,
    )


def fingerprint(*parts: str) -> str:
    """Return a short hash that is equal for failures of one cause, independent of their messages."""
    return hashlib.sha256("\n".join(parts).encode("utf-8", "replace")).hexdigest()[:12]


def _clean(text: str) -> str:
    """Return *text* without secrets, with characters that UTF-8 cannot encode (from undecodable file names) escaped."""
    return without_secrets(text).encode("utf-8", "backslashreplace").decode("utf-8")


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


def _shorten(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


class RetryDirective(NamedTuple):
    """The requests of a script."""

    final: bool = False  #: another attempt cannot help
    leave: str = ""  #: RESTART or STOP: this process exits once it has answered
    pause: float = 0.0  #: s until the next mini-batch of this process, or of its replacement


def retry_directive(error: BaseException) -> RetryDirective:
    """Return the requests of *error*: NoRetry by a class or ``code`` of that name, the others by Azure's exception only."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    code = getattr(error, "code", None)
    code = getattr(code, "name", code)
    is_final = "NoRetry" in kinds or (isinstance(code, str) and code in ("NoRetry", "Retry.NoRetry"))
    if "ParallelRunException" not in kinds:
        return RetryDirective(is_final)
    return RetryDirective(is_final, _LEAVES.get(str(code), ""), _seconds(getattr(error, "delay_seconds", 0)))


def _seconds(value: Any) -> float:
    """Return a number of seconds, 0 for an invalid value."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_PAUSE) if seconds == seconds else 0.0  # noqa: PLR0124  NaN
