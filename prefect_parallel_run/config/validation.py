"""Validators of configuration fields: a wrong value is named with what is accepted; nothing is converted silently."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, BeforeValidator, ValidationInfo

from prefect_parallel_run.config.quoting import is_int, shown
from prefect_parallel_run.units import parse_size

_IN_NO_FILE_NAME = r'~"#%&*:<>?/\\{|}\x00-\x1f\x7f'
_FORBIDDEN_IN_FILE_NAMES = re.compile(f"[{_IN_NO_FILE_NAME}]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VERSION = re.compile(r"3\.(9|[1-9][0-9])(\.[0-9]+)?")
_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx)://[^\s/@]+")
_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
ADDRESS = "an address such as tcp://127.0.0.1:8786 or tls://host:8786"
_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*(:[A-Za-z0-9][\w.-]*)?", re.ASCII)
LONGEST_FILE_NAME = 255  #: bytes, a file system's limit
# The same rules as a form's schema has them; a browser and Prefect's server read them, so they are plain.
SIZE = r"^0*[1-9][0-9]*([KkMmGg][Bb])?$"
FILE_NAME = rf"^(\.{{3,}}|\.*[^.{_IN_NO_FILE_NAME}][^{_IN_NO_FILE_NAME}]*)$"


def accept(words: str, is_right: Callable[[Any], bool]) -> BeforeValidator:
    """Return a validator that refuses a value with the value and what is accepted; nothing is converted."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if not is_right(value):
            raise ValueError(f"{info.field_name} is {shown(value)}; accepted: {words}")
        return value

    return BeforeValidator(check)


def at_least(least: int) -> BeforeValidator:
    """Return a validator of whole numbers from *least* on."""
    return accept(f"a whole number, {least} or more", lambda value: is_int(value) and value >= least)


def optional(words: str, is_right: Callable[[Any], bool]) -> BeforeValidator:
    """Return a validator that takes None too."""
    return accept(f"{words}, or None", lambda value: value is None or is_right(value))


def size(value: Any, info: ValidationInfo) -> Any:
    """Return a size as a number; a text is digits, or digits and a unit."""
    words = "a whole number above 0, digits, or digits and KB, MB or GB (no blanks, signs, fractions), or None"
    number = value
    if isinstance(value, str):
        try:
            number = parse_size(value)
        except ValueError:
            number = 0
    if number is not None and not (is_int(number) and number > 0):
        raise ValueError(f"{info.field_name} is {shown(value)}; accepted: {words}")
    return number


def word(*words: str) -> BeforeValidator:
    """Return a validator that takes any of *words* in any case and gives it as written here."""

    def check(value: Any, info: ValidationInfo) -> str:
        for word in words:
            if isinstance(value, str) and value.lower() == word.lower():
                return word
        raise ValueError(f"{info.field_name} is {shown(value)}; accepted: {', '.join(words)}, in any case")

    return BeforeValidator(check)


def is_address(text: str) -> bool:
    """True for the address of a Dask scheduler.

    >>> is_address("tls://10.0.0.1:8786"), is_address("10.0.0.1:8786")
    (True, False)
    """
    return _ADDRESS.fullmatch(text) is not None


def names_a_cluster(text: str) -> bool:
    """True for a text that can stand for a cluster: an address, a scheduler file, a class, or a reference to a block.

    >>> [names_a_cluster(text) for text in ("tls://host:8786", "./scheduler.json", "dask_jobqueue.SLURMCluster", "cpu-cluster")]
    [True, True, True, False]
    """
    return is_address(text) or is_dotted_name(text) or "/" in text or text.endswith(".json") or "{{" in text


def is_dotted_name(text: str) -> bool:
    """True for the dotted name of a class.

    >>> is_dotted_name("dask_jobqueue.SLURMCluster"), is_dotted_name("cpu-cluster")
    (True, False)
    """
    return _DOTTED_NAME.fullmatch(text) is not None


def cluster(value: Any, info: ValidationInfo) -> Any:
    """Return a compute target; a Prefect block that holds one (it has ``as_compute_target``) gives it.

    Whether a text names something that can be opened is found out by the step: other people's files may be read without it.
    """
    give = getattr(value, "as_compute_target", None)
    if give is not None:
        value = give()
    is_right = (isinstance(value, str) and value.strip()) or isinstance(value, BaseModel | dict)
    if not is_right:
        words = "'local', an address, a scheduler file, a cluster class, a ComputeTarget or a block that holds one"
        raise ValueError(f"{info.field_name} is {shown(value)}; accepted: {words}")
    return value


def file_name(value: Any, info: ValidationInfo) -> Any:
    """Return the name of a result file."""
    if value is None:
        return None
    reason = "a file name"
    if isinstance(value, str):
        if value in ("", ".", ".."):
            reason = "a file name that is not empty, '.' or '..'"
        elif _FORBIDDEN_IN_FILE_NAMES.search(value):
            reason = r'a file name without control characters and without ~ " # % & * : < > ? / \ { | }'
        elif len(value.encode("utf-8", "surrogatepass")) > LONGEST_FILE_NAME:
            reason = f"a file name of at most {LONGEST_FILE_NAME} bytes"
        else:
            return value
    raise ValueError(f"{info.field_name} is {shown(value)}; accepted: {reason}, or None")


def keys(value: Any, info: ValidationInfo) -> Any:
    """Return partition keys."""
    words = "a list of one or more different key names, or None"
    is_right = value is None or (
        isinstance(value, list)
        and value
        and all(isinstance(key, str) and key for key in value)
        and len(set(value)) == len(value)
    )
    if not is_right:
        raise ValueError(f"{info.field_name} is {shown(value)}; accepted: {words}")
    return value


def requirement_lines(value: Any, info: ValidationInfo) -> Any:
    """Return what pip is asked to install, one requirement or option per entry."""
    if not isinstance(value, list):
        raise ValueError(f"{info.field_name} is {shown(value)}; accepted: a list of texts")  # noqa: TRY004  pydantic's
    for line in value:
        if not isinstance(line, str) or not line.strip() or _CONTROL.search(line) or not is_unicode(line):
            words = "texts that are not empty, without newlines and control characters"
            raise ValueError(f"{info.field_name} has {shown(line)}; accepted: {words}")
    return value


def interpreter(value: Any, info: ValidationInfo) -> Any:
    """Return a version of Python, or the absolute path of an interpreter; ``~`` stays, every machine has a home of its own.

    A version as a number is refused: 3.10 would be 3.1.
    """
    if value is None:
        return None
    if isinstance(value, Path):
        value = str(value.absolute())
    if isinstance(value, str) and not _CONTROL.search(value) and is_unicode(value):
        if _VERSION.fullmatch(value):
            return value
        if "/" in value:
            return value if value.startswith("~") else str(Path(value).absolute())
    words = "a version from 3.9 on as a text, such as '3.11' or '3.11.7', a path of an interpreter with a '/', or None"
    raise ValueError(f"{info.field_name} is {shown(value)}; accepted: {words}")


def file_to_read(value: Any, info: ValidationInfo) -> Any:
    """Return the absolute path of a file that exists: whoever goes on with a run may be in another folder."""
    if value is None:
        return None
    if isinstance(value, str | Path) and "\0" not in str(value) and is_unicode(str(value)):
        path = Path(value).absolute()
        if path.is_file():
            return str(path)
    raise ValueError(f"{info.field_name} is {shown(value)}; accepted: a file that exists, or None")


def paths_by_name(value: Any, info: ValidationInfo) -> Any:
    """Return models: the absolute path of each by its name, or by ``NAME:VERSION``. Whether it exists the step finds out."""
    if value is None:
        return {}
    words = "a mapping of names (letters, digits, '_', '.', '-'; NAME or NAME:VERSION) to paths"
    if not isinstance(value, dict):
        raise ValueError(f"{info.field_name} is {shown(value)}; accepted: {words}")  # noqa: TRY004  pydantic's
    found = {}
    for name, given in value.items():
        if not isinstance(name, str) or not _MODEL.fullmatch(name):
            raise ValueError(f"{info.field_name} has the name {shown(name)}; accepted: {words}")
        path = str(given) if isinstance(given, Path) else given
        is_right = isinstance(path, str) and path.strip() and "\0" not in path and is_unicode(path) and "://" not in path
        if not is_right:
            raise ValueError(f"{info.field_name}[{name!r}] is {shown(path)}; accepted: a path that every node sees, no URL")
        found[name] = str(Path(path).expanduser().absolute())
    return found


def is_unicode(text: str) -> bool:
    """True for a text that can be written to a file: it has no half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def variables(value: Any) -> Any:
    """Return environment variables; an error names keys only, since values are secrets."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004  pydantic turns a ValueError into the field's error
            f"environment_variables is a {type(value).__name__}; accepted: a mapping of names to texts"
        )
    for key, text in value.items():
        if not isinstance(key, str) or not key or "=" in key or "\0" in key:
            raise ValueError(f"environment_variables has the name {shown(key)}; accepted: texts without '='")
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(f"environment_variables[{key!r}] is a {type(text).__name__}; accepted: a text")
    return value
