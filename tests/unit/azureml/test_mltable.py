"""MLTable files of Azure ML as datasets; unsupported parts are reported or refused."""

import re
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from prefect_parallel_run import FileDataset, TabularDataset
from prefect_parallel_run.azureml.findings import Outcome
from prefect_parallel_run.azureml.load import load
from prefect_parallel_run.azureml.mltable import load_mltable
from prefect_parallel_run.datasets.base import ignore_warning

DATA = Path(__file__).parents[1] / "data" / "azure"


@pytest.fixture
def table(tmp_path):
    """Load an MLTable file with the given text."""

    def make(transformations="", paths="- file: ./a.csv", **options):
        (tmp_path / "a.csv").write_text("n,s\n1,x\n")
        steps = f"transformations:\n{transformations}" if transformations else ""
        (tmp_path / "MLTable").write_text(f"type: mltable\npaths:\n{paths}\n{steps}\n")
        return load_mltable(tmp_path, **options)

    return make


def outcomes(found):
    return {difference.field: difference.outcome for difference in found.differences}


def test_an_mltable_file_or_its_folder_can_be_loaded():
    """Both give the same dataset."""
    folder = load(DATA / "iris" / "flowers")
    assert folder.dataset == load(DATA / "iris" / "flowers" / "MLTable").dataset
    assert folder.dataset.paths == [str(DATA / "iris" / "flowers" / "flowers.csv")]
    with pytest.raises(ValueError, match="the folder lacks a file MLTable"):
        load(DATA)


@pytest.mark.parametrize(
    ("step", "fields"),
    [
        ("- read_delimited", {"format": "delimited"}),
        ("- read_delimited: {delimiter: '\\t'}", {"delimiter": "\t"}),
        ('- read_delimited: {delimiter: "\\t"}', {"delimiter": "\t"}),
        ("- read_delimited: {encoding: utf8bom}", {"encoding": "utf-8"}),
        ("- read_delimited: {encoding: windows1252}", {"encoding": "cp1252"}),
        ("- read_delimited: {header: no_header}", {"header": False}),
        ("- read_delimited: {header: all_files_same_headers}", {"header": True}),
        ("- read_delimited: {header: from_first_file}", {"header": True}),
        ("- read_parquet", {"format": "parquet"}),
        ("- read_parquet: {include_path_column: false}", {"format": "parquet"}),
        ("- read_delta_lake", {"format": "delta"}),
        ("- read_delta_lake: {version_as_of: 1}", {"format": "delta", "version": 1}),
        ("- read_json_lines: {encoding: utf16, invalid_lines: error}", {"format": "json_lines", "encoding": "utf-16"}),
    ],
)
def test_readers(table, step, fields):
    """Supported options become fields, and no decision is required."""
    found = table(step)
    assert isinstance(found.dataset, TabularDataset)
    assert fields.items() <= found.dataset.model_dump().items()
    assert set(outcomes(found).values()) <= {Outcome.TAKEN, Outcome.CHANGED}


def test_rows_are_read_with_the_tables_options(table, tmp_path):
    """Latin-1, semicolons, no header."""
    found = table("- read_delimited: {encoding: latin1, delimiter: ';', header: no_header}", "- pattern: ./*.txt")
    (tmp_path / "b.txt").write_bytes("é;1\nü;2\n".encode("latin-1"))
    ((frame, _),) = found.dataset._tables(ignore_warning)
    assert frame.equals(pd.DataFrame({"0": ["é", "ü"], "1": [1, 2]}).set_axis(frame.columns, axis=1))


@pytest.mark.parametrize(
    ("step", "field", "outcome"),
    [
        ("- read_delimited: {header: no_header}", "read_delimited.header", Outcome.CHANGED),
        ("- read_delimited: {header: all_files_different_headers}", "read_delimited.header", Outcome.CHANGED),
        ("- read_delimited: {support_multi_line: false}", "read_delimited.support_multi_line", Outcome.CHANGED),
        ("- read_delimited: {support_multi_line: true}", "read_delimited.support_multi_line", Outcome.TAKEN),
        ("- read_delimited: {empty_as_string: true}", "read_delimited.empty_as_string", Outcome.LEFT),
        ("- read_delimited: {include_path_column: true}", "read_delimited.include_path_column", Outcome.LEFT),
        ("- read_delimited: {infer_column_types: false}", "read_delimited.infer_column_types", Outcome.LEFT),
        ("- read_delimited: {infer_column_types: {sample_size: 3}}", "read_delimited.infer_column_types", Outcome.LEFT),
        ("- read_delimited: {partition_size: 3}", "read_delimited.partition_size", Outcome.LEFT),
        ("- read_json_lines: {invalid_lines: drop}", "read_json_lines.invalid_lines", Outcome.LEFT),
        ("- read_parquet\n- convert_column_types: []", "transformations.convert_column_types", Outcome.LEFT),
        ("- read_parquet\n- filter: 'col(\"n\") > 3'", "transformations.filter", Outcome.OPEN),
        ("- read_parquet\n- take: 5", "transformations.take", Outcome.OPEN),
        ("- read_parquet\n- skip: 5", "transformations.skip", Outcome.OPEN),
        ("- read_parquet\n- take_random_sample: {probability: 0.1}", "transformations.take_random_sample", Outcome.OPEN),
        ("- read_parquet\n- read_delimited", "transformations.read_delimited", Outcome.OPEN),
        ("- take: 5", "transformations.take", Outcome.OPEN),
    ],
)
def test_unsupported_transformations_are_reported(table, step, field, outcome):
    """Column changes are left out; row changes require a decision, since a run would process rows that Azure skips."""
    found = table(step)
    assert outcomes(found)[field] is outcome
    (difference,) = [difference for difference in found.differences if difference.field == field]
    assert difference.why or outcome is Outcome.TAKEN


def test_the_version_of_a_delta_table_at_a_time(table, tmp_path):
    """The table is in the folder of the MLTable file, which is not one of its files."""
    for number in (1, 2):
        write_deltalake(tmp_path / "t", pa.table({"n": [number]}), mode="append")
    first = datetime.fromtimestamp(DeltaTable(tmp_path / "t").history()[-1]["timestamp"] / 1000, timezone.utc)
    for time, version in ((datetime.now(timezone.utc), 1), (first, 0)):
        found = table(f"- read_delta_lake: {{timestamp_as_of: '{time.isoformat()}'}}", f"- folder: {tmp_path}/t")
        assert (found.dataset.version, outcomes(found)["read_delta_lake.timestamp_as_of"]) == (version, Outcome.TAKEN)
    assert table("- read_delta_lake", "- folder: .").differences == []


@pytest.mark.parametrize(
    ("name", "why"),
    [("t", r"has no version at 2001-01-01T00:00:00\+00:00; expected .* or later"), ("none", "cannot be read as a Delta table")],
    ids=["before the table", "without a table"],
)
def test_a_time_without_a_version_is_open(table, tmp_path, name, why):
    """The first version of a table did not exist before it was written."""
    write_deltalake(tmp_path / "t", pa.table({"n": [1]}))
    found = table("- read_delta_lake: {timestamp_as_of: '2001-01-01T00:00:00Z'}", f"- folder: {tmp_path}/{name}")
    assert (found.dataset.version, outcomes(found)["read_delta_lake.timestamp_as_of"]) == (None, Outcome.OPEN)
    assert re.search(why, str(found.differences))


def test_headers_of_the_first_of_several_files_are_open(table, tmp_path):
    """A row of every further file would be lost."""
    for paths in ("- file: ./a.csv\n- file: ./b.csv", "- pattern: ./*.csv"):
        found = table("- read_delimited: {header: from_first_file}", paths)
        assert outcomes(found)["read_delimited.header"] is Outcome.OPEN
        assert found.dataset.header


@pytest.mark.parametrize(
    ("transformations", "message"),
    [
        ("- read_delta_lake: {version_as_of: last}", "line 5: read_delta_lake: Input should be a valid integer"),
        ("- read_delimited: {header: 'yes'}", "line 5: header is 'yes'; expected no_header"),
        ("- read_delimited: {encoding: ebcdic}", "line 5: encoding is 'ebcdic'; expected one of utf8"),
        ("- read_delimited: {delimiter: '||'}", "line 5: read_delimited: delimiter: expected one ASCII character"),
        ("- read_delimited: 5", "read_delimited is 5; expected a mapping"),
        ("- {a: 1, b: 2}", "expected one transformation per entry"),
        ("- read_parquet\n- extract_columns_from_partition_format: 5", "expected a format such as"),
        ("- extract_columns_from_partition_format: '{a'", "partition_format: unmatched '{' in '{a'"),
        ("- read_delimited: {delimiter: 5}", "line 5: delimiter is 5; expected a string"),
        ("- read_delimited: {delimeter: ';'}", "line 5: unknown field 'read_delimited.delimeter'; did you mean delimiter?"),
        ("- read_parquet: {delimiter: ';'}", "line 5: unknown field 'read_parquet.delimiter'"),
        ("- read_parquet\n- fliter: 'x'", "line 6: unknown transformation 'fliter'; did you mean filter?"),
        (
            "- read_delimited: {delimeter: ';'}\n- fliter: 'x'",
            (
                "line 5: unknown field 'read_delimited.delimeter'; did you mean delimiter?\n"
                "{}, line 6: unknown transformation 'fliter'; did you mean filter?"
            ),
        ),
        ("- read_parquet\ntrait: 1", "line 6: unknown field 'trait'; did you mean traits?"),
    ],
)
def test_errors_name_file_and_line(table, tmp_path, transformations, message):
    """One error lists all misspelled names."""
    with pytest.raises(ValueError, match=re.escape(message.replace("{}", str(tmp_path / "MLTable")))):
        table(transformations)


@pytest.mark.parametrize("paths", ["[]", "- ./a.csv", "- {file: a, folder: b}", "- {files: a}", "- file: 5"])
def test_paths_are_files_folders_and_patterns(table, paths):
    """Every other entry is an error."""
    with pytest.raises(ValueError, match="expected "):
        table("", f"  {paths}" if paths == "[]" else paths)


def test_paths_are_relative_to_the_file(table, tmp_path):
    """Paths in a workspace are open, or mapped."""
    paths = "- file: ./a.csv\n- folder: b\n- pattern: c/*.csv\n- file: azureml://datastores/d/paths/x.csv"
    found = table("", paths)
    assert found.dataset.paths[:3] == [f"{tmp_path}/a.csv", f"{tmp_path}/b", f"{tmp_path}/c/*.csv"]
    assert outcomes(found)["paths[3].file"] is Outcome.OPEN
    references = {"azureml://datastores/d/paths/": "/mnt"}
    assert load(tmp_path, references).dataset.paths[3] == "/mnt/x.csv"


def test_a_folder_that_holds_the_table_definition_is_open(table):
    """The file MLTable would be read as data."""
    assert outcomes(table("- read_delimited", "- folder: ./"))["paths[0].folder"] is Outcome.OPEN
    assert table("- read_delimited", "- folder: ./data").differences == []


def test_files_without_a_reader_are_items(table):
    """With keys from their paths; eval_mount makes any files items."""
    found = table("- extract_columns_from_partition_format: '{user}/{day:yyyy/MM/dd}/*.csv'", "- folder: ./data")
    assert found.dataset.partition_format == "{user}/{day:yyyy/MM/dd}/*.csv"
    assert isinstance(table("- read_delimited", as_files=True).dataset, FileDataset)


def test_keys_of_tables_come_from_hive_folders(table, tmp_path):
    """Tables have no partition format here."""
    paths, step = "- pattern: ./data/**/*.csv", "- read_delimited\n- extract_columns_from_partition_format: "
    field = "transformations.extract_columns_from_partition_format"
    assert outcomes(table(f"{step}{{day:yyyy/MM}}", paths))[field] is Outcome.LEFT
    (tmp_path / "data" / "store=1").mkdir(parents=True)
    (tmp_path / "data" / "store=1" / "a.csv").write_text("n\n1\n")
    assert outcomes(table(f"{step}'/store={{store}}/*.csv'", paths))[field] is Outcome.TAKEN
    changed = table(f"{step}{{partition_format: '/store={{shop}}'}}", paths)
    assert outcomes(changed)[field] is Outcome.CHANGED
    assert "names of the folders, store" in changed.differences[-1].why


def test_partition_keys_that_only_paths_have_are_open(table, tmp_path):
    """The table would lack that column, so the step would fail."""
    field = "transformations.extract_columns_from_partition_format"
    step, paths = "- read_delimited\n- extract_columns_from_partition_format: '{store}/{day}/*.csv'", "- pattern: ./d/**/*.csv"
    assert outcomes(table(step, paths, partition_keys=["brand"]))[field] is Outcome.LEFT
    found = table(step, paths, partition_keys=["day"])
    assert outcomes(found)[field] is Outcome.OPEN
    assert "partition_keys need day" in found.differences[-1].why
    assert "use folders such as store=1, or write the columns into the files" in found.differences[-1].why
    (tmp_path / "d" / "shop=1").mkdir(parents=True)
    (tmp_path / "d" / "shop=1" / "a.csv").write_text("n\n1\n")
    assert outcomes(table(step, paths, partition_keys=["store"]))[field] is Outcome.OPEN
    assert outcomes(table(step, paths))[field] is Outcome.CHANGED


@pytest.mark.parametrize(
    ("steps", "fields"),
    [
        ("- read_parquet\n- keep_columns: [n, m]", {"kept_columns": ["n", "m"]}),
        ("- read_json_lines\n- drop_columns: n", {"dropped_columns": ["n"]}),
        ("- read_delimited: {header: no_header}\n- drop_columns: [Column1, Column3]", {"dropped_columns": ["0", "2"]}),
        ("- read_parquet\n- keep_columns: [n, m]\n- drop_columns: m", {"kept_columns": ["n"]}),
        ("- read_parquet\n- drop_columns: []", {}),
    ],
)
def test_selections_of_columns_are_taken_over(table, steps, fields):
    """They apply one after the other, as in Azure."""
    found = table(steps)
    selection = {name: getattr(found.dataset, name) for name in ("kept_columns", "dropped_columns")}
    assert {name: value for name, value in selection.items() if value is not None} == fields
    selections = {entry.outcome for entry in found.differences if entry.field.endswith("_columns")}
    assert selections == {Outcome.TAKEN}


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (
            "- read_parquet\n- keep_columns: [n]\n- keep_columns: [m]",
            r"MLTable, line \d+: keep_columns: .* got 'm', which an earlier keep_columns removed",
        ),
        ("- read_parquet\n- keep_columns: [n, n]", "keep_columns: expected different columns, got 'n' more than once"),
        ("- read_parquet\n- drop_columns: {pattern: x}", "drop_columns is .* expected a column, or a list of columns"),
    ],
)
def test_impossible_selections_of_columns_are_refused(table, steps, words):
    """With file and line."""
    with pytest.raises(ValueError, match=words):
        table(steps)


def test_plain_types_of_columns_are_taken_over(table):
    """Other types, and types for files that have their own, are left out."""
    kinds = (
        "- convert_column_types:\n  - {columns: [a, b], column_type: int}\n  - {columns: c, column_type: string}\n"
        "  - {columns: d, column_type: {datetime: {formats: ['%Y']}}}\n  - {columns: e, column_type: boolean}"
    )
    found = table(f"- read_delimited\n{kinds}")
    assert found.dataset.column_types == {"a": "Int64", "b": "Int64", "c": "string", "e": "boolean"}
    reported = [entry for entry in found.differences if entry.field == "transformations.convert_column_types"]
    assert [entry.outcome for entry in reported] == [Outcome.LEFT, Outcome.TAKEN]
    assert reported[0].given.startswith("d: {'datetime'")
    found = table(f"- read_parquet\n{kinds}")
    assert found.dataset.column_types is None
    assert len([entry for entry in found.differences if entry.outcome is Outcome.LEFT]) == 4
    found = table("- read_delimited: {header: no_header}\n- convert_column_types: {columns: Column1, column_type: float}")
    assert found.dataset.column_types == {"0": "float64"}
