"""parallel_run_step.settings.json in the source folder, in which Azure's users say how returned DataFrames become text.

``{"append_row": {"pandas.DataFrame.to_csv": {"sep": ","}}}`` names keywords of pandas.DataFrame.to_csv.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.azureml.options import Translation
from prefect_parallel_run.config.csv_options import KEYWORDS, check_keywords
from prefect_parallel_run.config.model import ParallelRunConfig

FILE_NAME = "parallel_run_step.settings.json"
_FUNCTION = "pandas.DataFrame.to_csv"
_MOST_BYTES = 1 << 20
#: Values that say what is done here anyway.
_SAME: dict[str, tuple[Any, ...]] = {
    "mode": ("a", "w"),
    "lineterminator": (None, "\n"),
    "line_terminator": (None, "\n"),
    "compression": (None,),
}
_WHY = "rows are put together in one file, in order: accepted are " + ", ".join(KEYWORDS)


def source_settings(config: ParallelRunConfig) -> Translation:
    """Return what the settings file beside the entry script says; nothing where there is none, or no rows are written.

    What the configuration says itself counts more than the file.

    Raises:
        ValueError: It is not a JSON file of that shape, or a keyword has a wrong value.
    """
    path = config.source_path / FILE_NAME
    if config.result_file_name is None or not path.is_file():
        return Translation({}, [])
    findings = MigrationFindings()
    keywords = _keywords(_read(path), findings)
    if keywords and config.result_format in ("jsonl", "parquet"):
        findings.left(f"append_row.{_FUNCTION}", json.dumps(keywords), f"rows are written as {config.result_format}")
        return Translation({}, findings.found)
    own = config.append_row_csv_options or {}
    fields: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, value in keywords.items():
        where, given = f"{_FUNCTION} {name}", json.dumps(value)
        if name == "header":
            _header(value, config, fields, findings)
        if name == "header" and not isinstance(value, list):
            continue
        if name in own:
            if own[name] != value:
                findings.left(where, given, f"append_row_csv_options={{{name!r}: {own[name]!r}}} counts")
        elif name in KEYWORDS and value is not None:
            options[name] = value
            findings.taken(where, given, f"append_row_csv_options={{{name!r}: {value!r}}}")
        elif value is not None and value not in _SAME.get(name, ()):
            findings.left(where, given, _WHY)
    if options:
        fields["append_row_csv_options"] = check_keywords({**options, **own}, f"{path}: {_FUNCTION}")
    return Translation(fields, findings.found)


def _header(value: Any, config: ParallelRunConfig, fields: dict[str, Any], findings: MigrationFindings) -> None:
    """Take whether there is a header line; a list of names wants one."""
    where, given = f"{_FUNCTION} header", json.dumps(value)
    if not isinstance(value, bool | list):
        findings.left(where, given, "accepted are true, false and a list of names")
        return
    wanted = value is not False
    if "append_row_header" in config.model_fields_set and config.append_row_header != wanted:
        findings.left(where, given, f"append_row_header={config.append_row_header} counts")
    elif config.result_format == "csv" and not wanted:
        findings.left(where, given, "append_row_format='csv' has a header line")
    else:
        fields["append_row_header"] = wanted
        findings.taken(where, given, f"append_row_header={wanted}")


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


def _keywords(settings: dict[str, Any], findings: MigrationFindings) -> dict[str, Any]:
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
