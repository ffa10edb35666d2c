"""Planning warns once about anomalies in a table's files, and does not fail."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from prefect_parallel_run import TabularDataset
from prefect_parallel_run.datasets.schema import Column, InputWarnings
from prefect_parallel_run.planning.inputs import normalize_inputs
from prefect_parallel_run.planning.plan import Plan

from ...plans import write_plan


def warnings_of(dataset):
    warnings = []
    list(dataset.as_named_input("t").cuts(1 << 20, warn=warnings.append))
    return warnings


def test_a_column_of_two_types_is_reported_with_the_first_files(tmp_path):
    """Once, with the first value of the other type: the result would have 3.5 from one file and 3,50 from the other."""
    for name, values in {"a": "1,50\n2,50", "b": "3,50\nn.v.", "c": "4,5\nx", "d": "5,5\n6,5"}.items():
        rows = "".join(f"{number};{value}\n" for number, value in enumerate(values.split("\n")))
        (tmp_path / f"{name}.csv").write_text(f"id;amount\n{rows}")
    (warning,) = warnings_of(TabularDataset.from_delimited_files(tmp_path, delimiter=";", decimal=","))
    assert warning.startswith(
        f"column 'amount': floats, or integers with missing values in {tmp_path}/a.csv, strings in {tmp_path}/b.csv"
    )
    assert "'n.v.'" in warning
    assert "c.csv" not in warning


def test_files_of_the_same_types_raise_no_warning(tmp_path):
    """Text in another alphabet does not raise one either."""
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("n,t,e,d\n1,ü,,2024-01-01\n2,12a,,2024-01-02\n")
    assert warnings_of(TabularDataset.from_delimited_files(tmp_path)) == []


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("1\n2\n", "1.5\n", "integers in {a}, floats, or integers with missing values in {b}"),
        ("1\n2\n", "1\nNA\n", "integers in {a}, floats, or integers with missing values in {b}"),
        ("x\n", "NA\n", "strings in {a} (the first that is not a number: 'x'), no values in {b}"),
        ("True\n", "x\n", "booleans in {a}, strings in {b} (the first that is not a number: 'x')"),
        ("1\n", "99999999999999999999\n", "integers in {a}, strings in {b};"),
        ("1\n", "2024-01-01\n", "integers in {a}, strings in {b};"),
        ("1\n", "a\0b\n", "integers in {a}, strings in {b} (the first that is not a number: 'a"),
    ],
)
def test_the_warning_names_both_types(tmp_path, first, second, words):
    """The types may come from pandas instead of Arrow."""
    (tmp_path / "a.csv").write_text(f"v\n{first}")
    (tmp_path / "b.csv").write_text(f"v\n{second}")
    (warning,) = warnings_of(TabularDataset.from_delimited_files(tmp_path))
    assert words.format(a=tmp_path / "a.csv", b=tmp_path / "b.csv") in warning


def test_json_lines_and_files_without_a_header_are_compared_too(tmp_path):
    """By names of the columns, or by their numbers."""
    (tmp_path / "a.jsonl").write_text('{"v": 1}\n')
    (tmp_path / "b.jsonl").write_text('{"v": "x"}\n')
    (warning,) = warnings_of(TabularDataset.from_json_lines_files(tmp_path))
    assert warning.startswith(f"column 'v': integers in {tmp_path}/a.jsonl, strings in {tmp_path}/b.jsonl;")
    (tmp_path / "a.jsonl").write_text("1,1\n")
    (tmp_path / "b.jsonl").write_text("2,x\n")
    (warning,) = warnings_of(TabularDataset.from_delimited_files(tmp_path, header=False))
    assert warning.startswith("column '1': ")


def test_warnings_about_many_columns_are_limited():
    """A table may have thousands of columns."""
    warnings = []
    input_warnings = InputWarnings(warnings.append)
    for path, kind in (("a", "int"), ("b", "text")):
        input_warnings.add_columns(path, [Column(f"c{number}", kind) for number in range(12)])
    input_warnings.finish()
    assert len(warnings) == 11
    assert warnings[-1] == "2 more columns have different types in different files"


def test_a_wrong_delimiter_raises_a_warning(tmp_path):
    """It does not fail: run() would get one column. There is one warning, and none with the right delimiter."""
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("id;amount\n1;x\n")
    (warning,) = warnings_of(TabularDataset.from_delimited_files(tmp_path))
    assert warning == f"{tmp_path}/a.csv has one column, 'id;amount' (delimiter ','); is the delimiter ';'?"
    assert warnings_of(TabularDataset.from_delimited_files(tmp_path, delimiter=";")) == []


@pytest.mark.parametrize("rows", [b"1,x\n2,M\xfcller\n", b"x,1\n" * 5 + b"M\xfcller,y\n"], ids=["the last", "of texts only"])
def test_bytes_in_another_encoding_raise_a_warning(tmp_path, rows):
    """Planning reads the text for its types, so that the user learns of it before mini-batches fail."""
    (tmp_path / "a.csv").write_bytes(b"n,t\n" + rows)
    (warning,) = warnings_of(TabularDataset.from_delimited_files(tmp_path))
    assert "a.csv is not UTF-8: byte 0xfc: invalid start byte; check the dataset's encoding" in warning
    assert warnings_of(TabularDataset.from_delimited_files(tmp_path, encoding="latin-1")) == []
    (tmp_path / "a.csv").write_bytes(b'{"t": "M\xfcller"}\n')
    (warning,) = warnings_of(TabularDataset.from_json_lines_files(tmp_path))
    assert "is not UTF-8: byte 0xfc" in warning


def test_a_plan_stores_the_warnings(tmp_path):
    """They are logged when the run starts, and shown later."""
    (tmp_path / "a.csv").write_text("v,k\n1.5,1\n")
    (tmp_path / "b.csv").write_text("v,k\n2,1\n")
    for keys in (None, ["k"]):
        datasets = normalize_inputs([TabularDataset.from_delimited_files(tmp_path / "*.csv")])
        summary = write_plan(datasets, 10, tmp_path / "plan.parquet", keys, tmp_path / "partitions")
        assert [note.partition(":")[0] for note in summary.notes] == ["column 'v'"]
        assert Plan(tmp_path / "plan.parquet").summary == summary


def written(folder, kind, names):
    """Write a table with *names* as its columns; every column holds 1 and 2."""
    table = pa.table([pa.array([1, 2])] * len(names), names=names)
    path = folder / f"{len(list(folder.iterdir()))}.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "orc":
        orc.write_table(table, path)
    elif kind in ("arrow", "stream"):
        with (pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream)(path, table.schema) as writer:
            writer.write_table(table)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        table.to_pandas().to_csv(path, index=False)
    return path


READ = {
    "parquet": TabularDataset.from_parquet_files,
    "orc": TabularDataset.from_orc_files,
    "arrow": TabularDataset.from_arrow_files,
    "stream": TabularDataset.from_arrow_files,
    "jsonl": TabularDataset.from_json_lines_files,
    "csv": TabularDataset.from_delimited_files,
}


@pytest.mark.parametrize("kind", READ)
def test_different_names_and_order_raise_one_warning_each(tmp_path, kind):
    """In every format, naming the first such file: in a text result the values would be swapped."""
    files = [written(tmp_path, kind, list(names)) for names in ("abc", "abc", "acb", "bca", "abd", "ab")]
    order, names = warnings_of(READ[kind](files))
    start = f"{files[2]} has the columns of {files[0]}, the first file, in a different order: 'c' instead of 'b';"
    assert order.startswith(start)
    assert names.startswith(
        f"{files[4]} has different columns than {files[0]}, the first file: it lacks 'c' and has the additional 'd';"
    )
    assert warnings_of(READ[kind](files[:2])) == []


@pytest.mark.parametrize("files", [("id,price\n1,10\n", "3,30\n4,40\n"), ("3,30\n4,40\n", "id,price\n1,10\n")])
def test_a_file_without_a_header_raises_a_warning(tmp_path, files):
    """Its first row is lost; the warning names the file whose first record contains numbers."""
    for name, text in zip("ab", files, strict=True):
        (tmp_path / f"{name}.csv").write_text(text)
    lacking = tmp_path / f"{'ab'[[text[0] for text in files].index('3')]}.csv"
    (warning,) = warnings_of(TabularDataset.from_delimited_files(tmp_path))
    assert warning.startswith(f"{tmp_path}/b.csv has the columns ")
    assert f"if {lacking} lacks a header, its first row is used as one and lost" in warning


def test_a_file_without_a_second_row_may_lack_a_header_too(tmp_path):
    """All its data is lost."""
    (tmp_path / "a.csv").write_text("id,name\n1,x\n")
    (tmp_path / "b.csv").write_text("y,z\n")
    (warning,) = warnings_of(TabularDataset.from_delimited_files(tmp_path))
    assert "b.csv lacks a header" in warning


def test_without_headers_the_number_of_columns_is_compared(tmp_path):
    """The first record of each file counts."""
    (tmp_path / "a.csv").write_text("1,2\n")
    (tmp_path / "b.csv").write_text("1,2,3\n")
    (warning,) = warnings_of(TabularDataset.from_delimited_files(tmp_path, header=False))
    assert warning.startswith(
        f"{tmp_path}/b.csv has different columns than {tmp_path}/a.csv, the first file: it has the additional '2';"
    )


def test_columns_from_folders_do_not_affect_the_order(tmp_path):
    """They always come last, even if the file contains them too."""
    for day, names in ((1, "ab"), (2, ["day", "a", "b"])):
        (tmp_path / f"day={day}").mkdir()
        written(tmp_path / f"day={day}", "parquet", list(names))
    assert warnings_of(TabularDataset.from_parquet_files(tmp_path)) == []


def test_long_lists_of_names_are_shortened(tmp_path):
    """A message must not list a thousand columns."""
    files = [written(tmp_path, "csv", [f"{letter}{number}" for number in range(1000)]) for letter in "ab"]
    (warning,) = warnings_of(TabularDataset.from_delimited_files(files))
    assert "has the columns 'b0', 'b1', 'b2', 'b3', 'b4' and 995 more, but" in warning
    assert len(warning) < 1000


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize(("line", "delimiter"), [("sep=;", ";"), ('"sep=,"', ","), ("sep=\t", "\t")])
def test_a_separator_line_for_excel_raises_a_warning(tmp_path, line, delimiter, header):
    """pandas reads it as a record: with the right delimiter all other records would have too many fields."""
    (tmp_path / "a.csv").write_bytes(f"{line}\r\nid{delimiter}n\r\n1{delimiter}2\r\n".encode())
    for given in (delimiter, ","):
        (warning,) = warnings_of(TabularDataset.from_delimited_files(tmp_path, delimiter=given, header=header))
        assert warning.startswith(f"{tmp_path}/a.csv begins with the line {line!r}, which names the delimiter for Excel;")
        assert warning.endswith(f"remove that line and pass delimiter={delimiter!r}")
