"""Validators of configuration fields: errors name the value and what is expected; nothing is converted silently."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo

from prefect_parallel_run._units import is_int, is_number, parse_size, shown
from prefect_parallel_run.storage.paths import absolute_path

_FORBIDDEN = r'~"#%&*:<>?/\\{|}\x00-\x1f\x7f'
_FORBIDDEN_IN_FILE_NAMES = re.compile(f"[{_FORBIDDEN}]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VERSION = re.compile(r"3\.(9|[1-9][0-9])(\.[0-9]+)?")
_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx)://[^\s/@]+")
_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
ADDRESS = "an address such as tcp://127.0.0.1:8786 or tls://host:8786"
_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*(:[A-Za-z0-9][\w.-]*)?", re.ASCII)
LONGEST_FILE_NAME = 255  #: bytes, the limit of common file systems
# The same rules in the schema of a form. Browsers and Prefect's server evaluate them, so they use plain syntax.
FUNCTION = r"^[^\W\d]\w*$"
SIZE = r"^0*[1-9][0-9]*([KkMmGg][Bb])?$"
FILE_NAME = rf"^(\.{{3,}}|\.*[^.{_FORBIDDEN}][^{_FORBIDDEN}]*)$"


def invalid(info: ValidationInfo, value: Any, expected: str) -> ValueError:
    """Return the error for an invalid value of a field."""
    return ValueError(f"{info.field_name} is {shown(value)}; expected {expected}")


def accept(expected: str, is_valid: Callable[[Any], bool]) -> BeforeValidator:
    """Return a validator that rejects a value with an error that says what is expected; nothing is converted."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if not is_valid(value):
            raise invalid(info, value, expected)
        return value

    return BeforeValidator(check)


def optional(expected: str, is_valid: Callable[[Any], bool]) -> BeforeValidator:
    """Return a validator that also accepts None."""
    return accept(f"{expected}, or None", lambda value: value is None or is_valid(value))


def at_least(minimum: int) -> BeforeValidator:
    """Return a validator of integers from *minimum* on."""
    return accept(f"an integer, {minimum} or more", lambda value: is_int(value) and value >= minimum)


def optional_at_least(minimum: int) -> BeforeValidator:
    """Return a validator of None and of integers from *minimum* on."""
    return optional(f"an integer, {minimum} or more", lambda value: is_int(value) and value >= minimum)


Flag = Annotated[bool, accept("true or false", lambda value: isinstance(value, bool))]
Seconds = Annotated[float, Field(gt=0), accept("seconds above 0", lambda value: is_number(value) and value > 0)]
OptionalCount = Annotated[Annotated[int, Field(ge=1)] | None, optional_at_least(1)]


def either(choices: Collection[str]) -> str:
    """Return *choices* as text.

    >>> either(["text", "csv", "jsonl"])
    'text, csv or jsonl'
    """
    *others, last = choices
    return f"{', '.join(others)} or {last}"


def size(value: Any, info: ValidationInfo) -> Any:
    """Return a size in bytes or files; a string has digits, or digits and a unit."""
    expected = "a positive integer, or digits with an optional KB, MB or GB (no blanks, signs or fractions), or None"
    try:
        number = parse_size(value) if isinstance(value, str) else value
    except ValueError:
        number = 0
    if number is not None and not (is_int(number) and number > 0):
        raise invalid(info, value, expected)
    return number


def word(*words: str) -> BeforeValidator:
    """Return a validator that accepts any of *words* in any case, and returns it as spelled here."""

    def check(value: Any, info: ValidationInfo) -> str:
        for word in words:
            if isinstance(value, str) and value.lower() == word.lower():
                return word
        raise invalid(info, value, f"{', '.join(words)}, in any case")

    return BeforeValidator(check)


def is_address(text: str) -> bool:
    """True for the address of a Dask scheduler.

    >>> is_address("tls://10.0.0.1:8786"), is_address("10.0.0.1:8786")
    (True, False)
    """
    return _ADDRESS.fullmatch(text) is not None


def names_a_cluster(text: str) -> bool:
    """True for a string that can name a cluster: an address, a scheduler file, a class, or a reference to a block.

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
    """Return a compute target; a Prefect block that holds one is converted with its ``as_compute_target``.

    The step checks whether a string names something that exists: a configuration must be readable without it.
    """
    convert = getattr(value, "as_compute_target", None)
    if convert is not None:
        value = convert()
    is_valid = (isinstance(value, str) and value.strip()) or isinstance(value, BaseModel | dict)
    if not is_valid:
        expected = "'local', an address, a scheduler file, a cluster class, a ComputeTarget or a block that holds one"
        raise invalid(info, value, expected)
    return value


def file_name(value: Any, info: ValidationInfo) -> Any:
    """Return the name of a result file."""
    if value is None:
        return None
    expected = "a file name"
    if isinstance(value, str):
        if value in ("", ".", ".."):
            expected = "a file name other than '', '.' and '..'"
        elif _FORBIDDEN_IN_FILE_NAMES.search(value):
            expected = r'a file name without control characters and without ~ " # % & * : < > ? / \ { | }'
        elif len(value.encode("utf-8", "surrogatepass")) > LONGEST_FILE_NAME:
            expected = f"a file name of at most {LONGEST_FILE_NAME} bytes"
        else:
            return value
    raise invalid(info, value, f"{expected}, or None")


def keys(value: Any, info: ValidationInfo) -> Any:
    """Return the partition keys; a string is a JSON array, since a parameter of a flow or pipeline may hold only a string."""
    return _different_names(value, info, """key names, or a JSON array of them such as '["store", "day"]', or None""")


def input_columns(value: Any, info: ValidationInfo) -> Any:
    """Return the names of the values in front of every row; a string is a JSON array, as for partition keys."""
    return _different_names(value, info, """column names, or a JSON array of them such as '["path"]', or None""")


def _different_names(value: Any, info: ValidationInfo, what: str) -> Any:
    names = parse_keys(value) if isinstance(value, str) else value
    is_valid = names is None or (
        isinstance(names, list)
        and names
        and all(isinstance(key, str) and key for key in names)
        and len(set(names)) == len(names)
    )
    if not is_valid:
        raise invalid(info, value, f"a list of one or more different {what}")
    return names


def parse_keys(text: str) -> Any:
    """Return the value of partition keys that are a JSON array in a string; anything else is returned unchanged.

    >>> parse_keys('["store", "day"]'), parse_keys("store")
    (['store', 'day'], 'store')
    """
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return names if isinstance(names, list) else text


def requirement_lines(value: Any, info: ValidationInfo) -> Any:
    """Return the requirements for pip, one requirement or option per entry."""
    if not isinstance(value, list):
        raise invalid(info, value, "a list of strings")
    for line in value:
        if not isinstance(line, str) or not line.strip() or _CONTROL.search(line) or not is_unicode(line):
            expected = "non-empty strings without newlines and control characters"
            raise ValueError(f"{info.field_name} has {shown(line)}; expected {expected}")
    return value


def interpreter(value: Any, info: ValidationInfo) -> Any:
    """Return a version of Python, or the absolute path of an interpreter; ``~`` is kept, since home differs per machine.

    A version as a number is rejected: 3.10 would become 3.1.
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
    expected = "a version from 3.9 on as a string, such as '3.11' or '3.11.7', a path of an interpreter with a '/', or None"
    raise invalid(info, value, expected)


def file_to_read(value: Any, info: ValidationInfo) -> Any:
    """Return the absolute path of an existing file: a run may be resumed from another folder."""
    if value is None:
        return None
    if isinstance(value, str | Path) and "\0" not in str(value) and is_unicode(str(value)):
        path = Path(value).absolute()
        if path.is_file():
            return str(path)
    raise invalid(info, value, "an existing file, or None")


def paths_by_name(value: Any, info: ValidationInfo) -> Any:
    """Return the absolute path of each model by its name or ``NAME:VERSION``. The step checks whether it exists."""
    if value is None:
        return {}
    expected = "a mapping of names (letters, digits, '_', '.', '-'; NAME or NAME:VERSION) to paths"
    if not isinstance(value, dict):
        raise invalid(info, value, expected)
    models = {}
    for name, model in value.items():
        if not isinstance(name, str) or not _MODEL.fullmatch(name):
            raise ValueError(f"{info.field_name} has the name {shown(name)}; expected {expected}")
        path = str(model) if isinstance(model, Path) else model
        is_valid = isinstance(path, str) and path.strip() and "\0" not in path and is_unicode(path) and "://" not in path
        if not is_valid:
            raise ValueError(f"{info.field_name}[{name!r}] is {shown(path)}; expected a path on every node, not a URL")
        models[name] = str(Path(path).expanduser().absolute())
    return models


def function_name(value: Any, info: ValidationInfo) -> Any:
    """Return the name of a function at the top level of a script."""
    if value is None or (isinstance(value, str) and value.isidentifier() and not keyword.iskeyword(value)):
        return value
    raise invalid(info, value, "the name of a function at the top level of the script, or None")


def is_unicode(text: str) -> bool:
    """True for a string that can be written to a file: it has no unpaired surrogate."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def variables(value: Any) -> Any:
    """Return environment variables; an error names only keys, since values are secrets."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"environment_variables is a {type(value).__name__}; expected a mapping of names to strings")
    for key, text in value.items():
        if not isinstance(key, str) or not key or "=" in key or "\0" in key:
            raise ValueError(f"environment_variables has the name {shown(key)}; expected a string without '='")
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(f"environment_variables[{key!r}] is a {type(text).__name__}; expected a string")
    return value


def find_script(entry_script: str, source_directory: str | None) -> Path:
    """Return the script's absolute path with symbolic links resolved.

    Args:
        entry_script: Path or dotted name, relative to *source_directory* or else to the current folder.
        source_directory: Folder that must contain the script.

    Raises:
        ValueError: The script does not exist, or lies outside.
    """
    folder = Path(source_directory).resolve() if source_directory is not None else None
    for candidate in _candidates(entry_script):
        path = ((folder or Path.cwd()) / candidate).resolve()
        if path.is_file():
            if folder is not None and not path.is_relative_to(folder):
                raise ValueError(
                    f"entry_script is {shown(entry_script)}, which is outside source_directory"
                    f" {str(folder)!r}; expected a script inside it"
                )
            return path
    where = f"in source_directory {str(folder)!r}" if folder is not None else f"in {str(Path.cwd())!r}"
    raise ValueError(f"entry_script is {shown(entry_script)}, which does not exist {where}; expected a file")


def find_beside(fields: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Return the code path among *fields* that exists relative to *folder*, but not relative to the current folder.

    The result maps source_directory or entry_script to its absolute path; it is empty if there is no such field. A source
    directory counts as existing if it contains the script, since ``./`` exists in every folder. This lets a configuration file
    that is stored with its code be loaded from anywhere, while paths from the current folder keep precedence. Validation
    reports paths that are not strings.
    """
    script, source_directory = fields.get("entry_script"), fields.get("source_directory") or None
    if not isinstance(script, str) or not isinstance(source_directory, str | None):
        return {}
    candidates = list(_candidates(script.strip()))
    if source_directory is not None:
        here, below = Path(source_directory), folder / source_directory
        has_script = [any((root / candidate).is_file() for candidate in candidates) for root in (here, below)]
        if has_script == [False, True] or (not any(has_script) and not here.exists() and below.is_dir()):
            return {"source_directory": absolute_path(below)}
        return {}
    if any(Path(candidate).is_file() for candidate in candidates):
        return {}
    path = next((folder / candidate for candidate in candidates if (folder / candidate).is_file()), None)
    return {} if path is None else {"entry_script": absolute_path(path)}


def _candidates(entry_script: str) -> Iterator[str]:
    yield entry_script
    if all(part.isidentifier() for part in entry_script.split(".")):
        yield f"{entry_script.replace('.', '/')}.py"


class _Keyword(NamedTuple):
    is_valid: Callable[[Any], bool]
    expected: str


def _is_float_format(value: Any) -> bool:
    try:
        return isinstance(value, str) and isinstance(value % 1.5, str) and "%" in value
    except (TypeError, ValueError):
        return False


def _is_encoding(value: Any) -> bool:
    """True for an encoding that writes no byte order mark: encoding two strings separately equals encoding their sum."""
    try:
        return isinstance(value, str) and "a\n1".encode(value) == "a\n".encode(value) + "1".encode(value)
    except (LookupError, UnicodeError, TypeError):
        return False


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(text, str) for text in value)


def _text(expected: str) -> _Keyword:
    return _Keyword(lambda value: isinstance(value, str) and "\0" not in value, expected)


_CHARACTER = _Keyword(
    lambda value: isinstance(value, str) and len(value) == 1 and value not in "\r\n\0", "one character other than a newline"
)
_BOOLEAN = _Keyword(lambda value: isinstance(value, bool), "true or false")
_STRINGS = _Keyword(_are_strings, "a list of strings")
KEYWORDS: dict[str, _Keyword] = {
    "sep": _CHARACTER,
    "na_rep": _text("a string"),
    "float_format": _Keyword(_is_float_format, "a format for one number, such as '%.3f'"),
    "date_format": _text("a format for dates, such as '%Y-%m-%d'"),
    "decimal": _CHARACTER,
    "columns": _STRINGS,
    "header": _Keyword(
        _are_strings, "a list of strings, the names in the header line; append_row_header turns the line on or off"
    ),
    "index": _BOOLEAN,
    "index_label": _text("a string"),
    "quoting": _Keyword(lambda value: is_int(value) and 0 <= value <= 3, "0 (minimal), 1 (all), 2 (not numbers) or 3 (none)"),
    "quotechar": _CHARACTER,
    "doublequote": _BOOLEAN,
    "escapechar": _CHARACTER,
    "encoding": _Keyword(_is_encoding, "a Python encoding without a byte order mark"),
}


def csv_options(value: Any, info: ValidationInfo) -> Any:
    """Return the keywords of to_csv; an empty mapping becomes None."""
    if value is None or value == {}:
        return None
    if not isinstance(value, dict):
        raise invalid(info, value, "a mapping of keywords of to_csv, or None")
    return check_keywords(value, str(info.field_name))


def check_keywords(keywords: dict[Any, Any], where: str) -> dict[str, Any]:
    """Return *keywords*; raises ValueError, starting with *where*, for an unknown keyword or an invalid value."""
    for name, value in keywords.items():
        if name not in KEYWORDS:
            raise ValueError(f"{where} has {shown(name)}; expected one of {', '.join(KEYWORDS)}")
        if not KEYWORDS[name].is_valid(value):
            raise ValueError(f"{where}[{name!r}] is {shown(value)}; expected {KEYWORDS[name].expected}")
    special = [keywords.get("sep", ","), keywords.get("quotechar", '"'), keywords.get("escapechar", "")]
    if len({*special}) < len(special):
        raise ValueError(f"{where}: sep, quotechar and escapechar are {special}; expected different characters")
    return keywords
