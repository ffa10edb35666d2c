"""An exception as plain text: its type, its words, the script's part of the traceback, and a fingerprint of the cause."""

import hashlib
import json
import os
import traceback
from typing import Iterable, Iterator, List, NamedTuple, Set

from .pandas_advice import pandas_advice
from .retry import retry_directive

_OWN_MODULES = f"{__package__}."  #: which nobody imports an error from
_OWN_FOLDER = os.path.dirname(os.path.abspath(__file__))
_LONGEST_TEXT = 4_000  #: characters of an exception's text that are kept
_LONGEST_TRACEBACK = 20_000
_SHORTEST_SECRET = 4  #: characters


class Failure(NamedTuple):
    """What is reported of an exception."""

    type: str
    text: str
    traceback: str
    fingerprint: str
    final: bool  #: the script asked for no further try


_secrets: List[str] = []


def keep_secret(values: Iterable[str]) -> None:
    """Have these texts left out of every description from now on; very short ones are no secrets, and would hide too much."""
    forms = {form for value in values for form in _forms(value) if len(form) >= _SHORTEST_SECRET}
    _secrets[:] = sorted(forms, key=len, reverse=True)


def _forms(value: str) -> Iterator[str]:
    """Yield how a text may stand in another: as it is, as Python or JSON write it, and line by line."""
    yield value
    yield repr(value)[1:-1]
    yield json.dumps(value)[1:-1]
    yield from (line.strip() for line in value.splitlines())


def without_secrets(text: str) -> str:
    """Return *text* with the values of environment variables that the step sets as asterisks."""
    for secret in _secrets:
        text = text.replace(secret, "***")
    return text


def describe(error: BaseException) -> Failure:
    """Return *error* as text; frames of our own are left out, so that the reader sees the script's.

    Advice about the cause, where there is some, is a line of its own behind the error's words.
    """
    name = _clean(_name(error))
    text = "\n".join(filter(None, (_text(error), pandas_advice(error))))
    return Failure(
        name,
        _shorten(_clean(text), _LONGEST_TEXT),
        _shorten(_clean(_traceback(error, set())), _LONGEST_TRACEBACK),
        fingerprint(name, *_places(error)),
        retry_directive(error).final,
    )


def fingerprint(*parts: str) -> str:
    """Return a short hash that is equal for failures of one cause, whatever figures stand in their words."""
    return hashlib.sha256("\n".join(parts).encode("utf-8", "replace")).hexdigest()[:12]


def _clean(text: str) -> str:
    """Return *text* without secrets, and without what UTF-8 cannot hold: bytes of file names that are no text."""
    return without_secrets(text).encode("utf-8", "backslashreplace").decode("utf-8")


def _name(error: BaseException) -> str:
    kind = type(error)
    is_known = kind.__module__ in ("builtins", "__main__") or kind.__module__.startswith(_OWN_MODULES)
    return kind.__qualname__ if is_known else f"{kind.__module__}.{kind.__qualname__}"


def _text(error: BaseException) -> str:
    """Return an exception's words; Azure's own begin with a line that has only the name of the type."""
    heading = f"{type(error).__name__}:\n"
    try:
        text = str(error)
        return text[len(heading) :].lstrip() if text.startswith(heading) else text
    except Exception as second:  # noqa: BLE001  a __str__ of the user's that fails must not hide the first error
        return f"<its text could not be made: {type(second).__name__}>"


def _frames(error: BaseException) -> "List[traceback.FrameSummary]":
    frames = traceback.extract_tb(error.__traceback__)
    return [f for f in frames if not os.path.abspath(f.filename).startswith(_OWN_FOLDER) and "importlib" not in f.filename]


def _places(error: BaseException) -> List[str]:
    return [f"{os.path.basename(f.filename)}:{f.name}:{f.lineno}" for f in _frames(error)]


def _traceback(error: BaseException, told: Set[int]) -> str:
    told.add(id(error))
    head = traceback.format_list(_frames(error))
    if head:
        head.insert(0, "Traceback (most recent call last):\n")
    try:
        tail = [_shortly(error, line) for line in traceback.format_exception_only(type(error), error)]
    except Exception:  # noqa: BLE001  the same __str__ again
        tail = [f"{_name(error)}: {_text(error)}\n"]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = []
    if cause is not None and id(cause) not in told:  # exceptions may be each other's causes
        before = [_traceback(cause, told), "\nThe exception above led to this one:\n\n"]
    return "".join(before + head + tail)


def _shortly(error: BaseException, line: str) -> str:
    """Return a line that begins with the type of *error* with the name that we call it."""
    kind = type(error)
    whole = f"{kind.__module__}.{kind.__qualname__}"
    return _name(error) + line[len(whole) :] if line.startswith(whole) else line


def _shorten(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
