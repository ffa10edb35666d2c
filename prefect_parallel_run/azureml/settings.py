"""Reads parallel_run_step.settings.json in the source folder, which configures how returned DataFrames become text.

``{"append_row": {"pandas.DataFrame.to_csv": {"sep": ","}}}`` names keywords of pandas.DataFrame.to_csv.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.azureml.options import Translation
from prefect_parallel_run.child.rows import row_format
from prefect_parallel_run.config.csv_options import KEYWORDS, check_keywords
from prefect_parallel_run.config.model import ParallelRunConfig

FILE_NAME = "parallel_run_step.settings.json"
_FUNCTION = "pandas.DataFrame.to_csv"
_MAX_BYTES = 1 << 20
#: Values that match the behaviour here anyway.
_SAME: dict[str, tuple[Any, ...]] = {
    "mode": ("a", "w"),
    "lineterminator": (None, "\n"),
    "line_terminator": (None, "\n"),
    "compression": (None,),
}
_WHY = "rows are combined in one file, in order: expected one of " + ", ".join(KEYWORDS)


def source_settings(config: ParallelRunConfig) -> Translation:
    """Return the settings in the file beside the entry script; empty if there is no file, or no rows are written.

    The configuration's own fields take precedence over the file.

    Raises:
        ValueError: The file is not a JSON file of that shape, or a keyword has an invalid value.
    """
    path = config.source_path / FILE_NAME
    if config.result_file_name is None or not path.is_file():
        return Translation({}, [])
    findings = MigrationFindings()
    keywords = _keywords(_read(path), findings)
    if keywords and not row_format(config.result_format).has_csv_options:
        findings.left_out(f"append_row.{_FUNCTION}", json.dumps(keywords), f"rows are written as {config.result_format}")
        return Translation({}, findings.differences)
    own = config.append_row_csv_options or {}
    fields: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, value in keywords.items():
        where, text = f"{_FUNCTION} {name}", json.dumps(value)
        if name == "header":
            _header(value, config, fields, findings)
        if name == "header" and not isinstance(value, list):
            continue
        if name in own:
            if own[name] != value:
                findings.left_out(where, text, f"append_row_csv_options={{{name!r}: {own[name]!r}}} takes precedence")
        elif name in KEYWORDS and value is not None:
            options[name] = value
            findings.taken(where, text, f"append_row_csv_options={{{name!r}: {value!r}}}")
        elif value is not None and value not in _SAME.get(name, ()):
            findings.left_out(where, text, _WHY)
    if options:
        fields["append_row_csv_options"] = check_keywords({**options, **own}, f"{path}: {_FUNCTION}")
    return Translation(fields, findings.differences)


def _header(value: Any, config: ParallelRunConfig, fields: dict[str, Any], findings: MigrationFindings) -> None:
    """Set whether there is a header line; a list of names requires one."""
    where, text = f"{_FUNCTION} header", json.dumps(value)
    if not isinstance(value, bool | list):
        findings.left_out(where, text, "expected true, false or a list of names")
        return
    has_header = value is not False
    if "append_row_header" in config.model_fields_set and config.append_row_header != has_header:
        findings.left_out(where, text, f"append_row_header={config.append_row_header} takes precedence")
    elif row_format(config.result_format).always_has_header and not has_header:
        findings.left_out(where, text, f"append_row_format={config.result_format!r} always has a header line")
    else:
        fields["append_row_header"] = has_header
        findings.taken(where, text, f"append_row_header={has_header}")


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path}: the file has over {_MAX_BYTES} bytes; expected a settings file")
    try:
        settings = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # JSON's and Unicode's errors are ValueErrors
        raise ValueError(f"{path}: cannot read it as JSON: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: the file has a {type(settings).__name__}; expected an object with the key append_row")
    return settings


def _keywords(settings: dict[str, Any], findings: MigrationFindings) -> dict[str, Any]:
    """Return the keywords of to_csv; everything else is recorded as left out."""
    for name, value in settings.items():
        if name != "append_row":
            findings.left_out(name, json.dumps(value), "only append_row is supported")
    append_row = settings.get("append_row") or {}
    if not isinstance(append_row, dict) or not isinstance(append_row.get(_FUNCTION) or {}, dict):
        raise ValueError(f"{FILE_NAME}: append_row is {append_row!r}; expected {{{_FUNCTION!r}: {{keyword: value}}}}")
    for name, value in append_row.items():
        if name != _FUNCTION:
            findings.left_out(f"append_row.{name}", json.dumps(value), f"only {_FUNCTION} is supported")
    return dict(append_row.get(_FUNCTION) or {})
