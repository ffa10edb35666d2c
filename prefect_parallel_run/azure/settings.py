"""parallel_run_step.settings.json in the source folder, in which Azure's users say how returned DataFrames become text.

``{"append_row": {"pandas.DataFrame.to_csv": {"sep": ","}}}`` names keywords of pandas.DataFrame.to_csv.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect_parallel_run.azure.differences import Findings
from prefect_parallel_run.azure.options import Translation
from prefect_parallel_run.config import ParallelRunConfig

FILE_NAME = "parallel_run_step.settings.json"
_FUNCTION = "pandas.DataFrame.to_csv"
_MOST_BYTES = 1 << 20
#: Values that name what is done here anyway, in ``text`` and in ``csv``.
_SAME: dict[str, tuple[Any, ...]] = {
    "index": (False,),
    "encoding": (None, "utf-8", "utf8", "UTF-8"),
    "mode": ("a", "w"),
    "lineterminator": (None, "\n"),
    "line_terminator": (None, "\n"),
    "quoting": (None, 0),
    "quotechar": ('"',),
    "doublequote": (True,),
    "escapechar": (None,),
    "na_rep": ("",),
    "decimal": (".",),
    "float_format": (None,),
    "date_format": (None,),
    "columns": (None,),
    "compression": (None,),
}
_FORMATS = {" ": "text", ",": "csv"}


def source_settings(config: ParallelRunConfig) -> Translation:
    """Return what the settings file beside the entry script says; nothing where there is none, or no rows are written.

    What the configuration says itself counts more than the file.

    Raises:
        ValueError: It is not a JSON file of that shape.
    """
    path = config.source_path / FILE_NAME
    if config.result_file_name is None or not path.is_file():
        return Translation({}, [])
    findings = Findings()
    keywords = _keywords(_read(path), findings)
    fields: dict[str, Any] = {}
    if keywords and config.result_format in ("jsonl", "parquet"):
        findings.left(f"append_row.{_FUNCTION}", json.dumps(keywords), f"rows are written as {config.result_format}")
        return Translation({}, findings.found)
    for name, value in keywords.items():
        where = f"{_FUNCTION} {name}"
        if name == "sep":
            _separator(value, config, fields, findings)
        elif name == "header" and isinstance(value, bool):
            _header(value, config, fields, findings)
        elif not any(value is same or (type(value) is type(same) and value == same) for same in _SAME.get(name, ())):
            findings.left(where, json.dumps(value), "DataFrames are written with pandas' own defaults, without an index")
    return Translation(fields, findings.found)


def _separator(value: Any, config: ParallelRunConfig, fields: dict[str, Any], findings: Findings) -> None:
    where = f"{_FUNCTION} sep"
    found = _FORMATS.get(value) if isinstance(value, str) else None
    if found is None:
        findings.left(where, json.dumps(value), "text has blanks between columns here, append_row_format='csv' commas")
    elif config.append_row_format is not None and config.append_row_format != found:
        findings.left(where, json.dumps(value), f"append_row_format={config.append_row_format!r} counts")
    else:
        fields["append_row_format"] = found
        findings.taken(where, json.dumps(value), f"append_row_format={found!r}")


def _header(value: bool, config: ParallelRunConfig, fields: dict[str, Any], findings: Findings) -> None:
    where = f"{_FUNCTION} header"
    if "append_row_header" in config.model_fields_set and config.append_row_header != value:
        findings.left(where, value, f"append_row_header={config.append_row_header} counts")
    else:
        fields["append_row_header"] = value
        findings.taken(where, value, f"append_row_header={value}")


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path}: is over {_MOST_BYTES} bytes; that is no settings file")
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # JSON's and Unicode's errors are ValueErrors
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: is {type(found).__name__}; accepted: an object with the key append_row")  # noqa: TRY004  a file's value
    return found


def _keywords(settings: dict[str, Any], findings: Findings) -> dict[str, Any]:
    """Return the keywords of to_csv; everything else is noted."""
    for name, value in settings.items():
        if name != "append_row":
            findings.left(name, json.dumps(value), "only append_row is known here")
    append_row = settings.get("append_row") or {}
    if not isinstance(append_row, dict) or not isinstance(append_row.get(_FUNCTION) or {}, dict):
        raise ValueError(f"{FILE_NAME}: append_row is {append_row!r}; accepted: {{{_FUNCTION!r}: {{keyword: value}}}}")  # noqa: TRY004  the same
    for name, value in append_row.items():
        if name != _FUNCTION:
            findings.left(f"append_row.{name}", json.dumps(value), f"only {_FUNCTION} is known here")
    return dict(append_row.get(_FUNCTION) or {})
