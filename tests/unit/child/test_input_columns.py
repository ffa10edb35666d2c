"""append_row_input_columns: every published row has the values of the item that it was returned for, in every format."""

import csv
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import orc

from prefect_parallel_run import FileDataset, InputError, TabularDataset
from prefect_parallel_run.child.arrow_values import Entries
from prefect_parallel_run.child.input_columns import InputColumns, UnmatchedRows
from prefect_parallel_run.child.reading import Reader
from prefect_parallel_run.child.rows import ROW_FORMATS, encode
from prefect_parallel_run.node import prefetch

from ..output.test_folder import publication
from ..output.test_publication import Parts

TRICKY = st.text(st.sampled_from('ab",;| \n\r\té'), max_size=5)
RESULTS = {  #: what a script may return for the numbers of the items
    "strings": lambda numbers: [f"r {number}" for number in numbers],
    "tuples": lambda numbers: [(f"r {number}", number) for number in numbers],
    "dicts": lambda numbers: [{"value": f"r {number}", "m": number} for number in numbers],
    "generator": lambda numbers: [f"r {number}" for number in numbers],
    "frame": lambda numbers: pd.DataFrame({"value": [f"r {number}" for number in numbers]}, index=[7] * len(numbers)),
    "series": lambda numbers: pd.Series([f"r {number}" for number in numbers], name="value"),
    "array": lambda numbers: np.array([[f"r {number}", "x"] for number in numbers]),
    "structured": lambda numbers: np.array([(f"r {number}", 1) for number in numbers], dtype=[("value", "U20"), ("m", "i4")]),
}


def rows_in(data, row_format):
    """The rows of a published file, as lists of values."""
    if row_format in ("text", "csv"):
        return list(csv.reader(io.StringIO(data.decode(), newline=""), delimiter=" " if row_format == "text" else ","))[1:]
    if row_format == "jsonl":
        return [list(json.loads(line).values()) for line in data.decode().split("\n")[:-1]]
    source = pa.BufferReader(data)
    table = pq.read_table(source) if row_format == "parquet" else orc.ORCFile(source).read()
    return [list(row.values()) for row in table.to_pylist()]


def published(parts, folder, is_folder):
    """The rows of one result file, or of all parts of a result folder."""
    target = Path(folder, "result")
    if is_folder:
        publication(parts, target, 100).publish()
        files = sorted(target.iterdir())
    else:
        parts.publish(target)
        files = [target]
    return [row for file in files for row in rows_in(file.read_bytes(), parts.row_format)]


def first_value(row):
    """The first value that the script returned, which jsonl leaves in a list if it was in one."""
    value = row[4] if len(row) > 4 else row[-1]
    return value[0] if isinstance(value, list) else value


@settings(deadline=None, max_examples=60)
@given(
    st.lists(TRICKY, min_size=1, max_size=12),
    st.sampled_from(ROW_FORMATS),
    st.sampled_from(sorted(RESULTS)),
    st.sampled_from(["parquet", "json_lines"]),
    st.booleans(),
    st.integers(1, 4),
)
def test_every_row_has_the_values_of_its_item(texts, row_format, result, source, is_folder, group):
    """Also after the script has sorted, changed and dropped what it was given, and when only some items of each run again."""
    with tempfile.TemporaryDirectory() as folder:
        frame = pd.DataFrame({"n": range(len(texts)), "t": texts, "unused": 0})
        path = Path(folder, f"table.{source}")
        if source == "parquet":
            frame.to_parquet(path, row_group_size=group)
        else:
            frame.to_json(path, orient="records", lines=True)
        names = ["t", "row", "file", "n"]
        dataset = TabularDataset(paths=[str(path)], format=source).as_named_input("t").with_input_columns(names)
        parts, reader = Parts(Path(folder), row_format, header=True), Reader()
        for number, batch in enumerate(dataset.cuts(40)):
            work = json.loads(batch.work)
            for piece in [(0, batch.items // 2), (batch.items // 2, batch.items)]:
                if piece[0] == piece[1]:
                    continue
                items = reader.read(work, piece)
                inputs = InputColumns(names, items, work, piece)
                returned = RESULTS[result](items["n"].tolist())
                items["t"] = "changed"
                items.loc[:, "n"] = -1
                del items["unused"]
                parts.add(2 * number + (piece[0] > 0), returned, inputs=inputs)
        rows = published(parts, folder, is_folder)
        expected = [[text, str(number), str(path), str(number), f"r {number}"] for number, text in enumerate(texts)]
        assert [[row[0], *map(str, row[1:4]), first_value(row)] for row in rows] == expected


@settings(deadline=None, max_examples=40)
@given(
    st.lists(TRICKY.filter(lambda name: "\0" not in name), min_size=1, max_size=8, unique=True),
    st.sampled_from(ROW_FORMATS),
    st.sampled_from(sorted(RESULTS)),
    st.booleans(),
)
def test_every_row_has_the_path_of_its_file(names, row_format, result, is_folder):
    """Also after the script has emptied the list that it was given."""
    names = [f"{number}{name}" for number, name in enumerate(names)]
    with tempfile.TemporaryDirectory() as folder:
        parts = Parts(Path(folder), row_format, header=True)
        for start in range(0, len(names), 3):
            chunk = names[start : start + 3]
            items, work = (
                [f"/d/s/{name}" for name in chunk],
                {"kind": "files", "root": "/d/", "names": [f"s/{n}" for n in chunk]},
            )
            inputs = InputColumns(["name", "path"], items, work)
            returned = RESULTS[result](list(range(start, start + len(chunk))))
            items.clear()
            parts.add(start, returned, inputs=inputs)
        rows = published(parts, folder, is_folder)
        assert [row[:2] for row in rows] == [[name, f"/d/s/{name}"] for name in names]
        values = [row[2][0] if isinstance(row[2], list) else row[2] for row in rows]
        assert values == [f"r {number}" for number in range(len(names))]


SCALARS = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.just(2**60 + 1),
    st.none(),
    st.floats(),
    st.floats(width=32).map(np.float32),
    st.booleans(),
    st.datetimes(),
    TRICKY,
)
LISTS = st.one_of(
    st.lists(SCALARS, min_size=1, max_size=4),
    st.lists(st.one_of(st.none(), st.integers()), min_size=1, max_size=4),
    st.lists(st.one_of(st.none(), st.fixed_dictionaries({"a": SCALARS, "b": SCALARS})), min_size=1, max_size=4),
    st.lists(st.one_of(st.none(), st.tuples(SCALARS, SCALARS)), min_size=1, max_size=4),
    st.lists(st.one_of(SCALARS, st.tuples(SCALARS), st.fixed_dictionaries({"a": SCALARS})), min_size=1, max_size=4),
)


def encoded_rows(values, row_format, options, inputs=None):
    """The rows of one mini-batch as a reader of the result sees them, or the type of the error."""
    try:
        encoded = encode(values, row_format, True, options, inputs)
    except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
        return type(error)
    data = encoded.header + encoded.body
    if row_format in ("parquet", "orc"):
        return [list(row.values()) for row in pa.ipc.open_stream(data).read_all().to_pylist()]
    return rows_in(data, row_format)


@settings(deadline=None, max_examples=200)
@given(LISTS, st.sampled_from([1, 60]), st.sampled_from(ROW_FORMATS), st.booleans(), st.booleans())
def test_the_values_of_a_list_do_not_change(values, repeated, row_format, is_table, has_options):
    """Every row is the row without input columns after those of its item; text has the columns of csv."""
    values = values * repeated
    inputs = inputs_of(len(values))
    own = [[f"/f{number}"] for number in range(len(values))]
    if is_table:
        frame = pd.DataFrame({"id": [f"i {number}" for number in range(len(values))], "x": np.float32(0.1)})
        inputs = InputColumns(["id", "x"], frame, {"kind": "parquet", "path": "/t", "rows": len(values)})
        own = [
            [f"i {number}", "0.1" if row_format in ("csv", "text") else float(np.float32(0.1))] for number in range(len(values))
        ]
    options = {"na_rep": "-", "float_format": "%.3e"} if has_options and row_format == "csv" else {}
    plain = encoded_rows(values, "csv" if row_format == "text" else row_format, options)
    expected = [inputs_ + row for inputs_, row in zip(own, plain, strict=True)] if isinstance(plain, list) else plain
    if options and is_table and isinstance(plain, list):
        expected = [[name, "1.000e-01", *row] for name, _, *row in expected]
    assert encoded_rows(values, row_format, options, inputs) == expected


@pytest.mark.parametrize("is_table", [True, False], ids=["table", "files"])
@pytest.mark.parametrize(("row_format", "sep"), [("csv", ","), ("text", " ")])
def test_large_integers_beside_none_are_exact(row_format, sep, is_table):
    """A DataFrame would make them floats."""
    inputs = InputColumns(["id"], pd.DataFrame({"id": ["/f0", "/f1"]}), {"kind": "parquet"}) if is_table else inputs_of(2)
    assert encode([2**60 + 1, None], row_format, False, {}, inputs).body.decode() == f"/f0{sep}1152921504606846977\n/f1{sep}\n"


NO_ROW = {  #: an element beside None, and the values of the row of None
    "dicts": ({"a": 1, "b": "x"}, {"a": None, "b": None}),
    "tuples": ((1, "x"), {0: None, 1: None}),
    "integers": (1, {"value": None}),
}


@pytest.mark.parametrize("row_format", ["csv", "text", "jsonl", "parquet", "orc"])
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("kind", NO_ROW)
def test_none_is_a_row_of_nulls(kind, is_first, row_format):
    """An item without an answer does not fail its mini-batch."""
    row, nulls = NO_ROW[kind]
    rows = encoded_rows([None, row] if is_first else [row, None], row_format, {}, inputs_of(2))
    path = "/f0" if is_first else "/f1"
    if kind == "tuples" and row_format == "jsonl":  # which keeps tuples as one value
        nulls = {"value": None}
    null = "" if row_format in ("csv", "text") else None
    assert rows[0 if is_first else 1] == [path, *([null] * len(nulls))]


def inputs_of(count, names=("path",)):
    return InputColumns(names, ["x"] * count, {"kind": "files", "root": "/", "names": [f"f{n}" for n in range(count)]})


@pytest.mark.parametrize("row_format", ROW_FORMATS)
@pytest.mark.parametrize("value", [["a"], ["a", "b", "c"], [], pd.DataFrame({"a": [1]}), pd.Series([1, 2, 3]), np.ones((1, 2))])
def test_another_number_of_rows_is_an_error(row_format, value):
    """That says both numbers: a shifted column would be worse than no result."""
    with pytest.raises(UnmatchedRows) as caught:
        encode(value, row_format, True, {}, inputs_of(2))
    rows = f"{len(value)} row" + "s" * (len(value) != 1)
    assert str(caught.value).startswith(f"run() returned {rows} for 2 items; append_row_input_columns needs exactly one row")


@pytest.mark.parametrize("row_format", ROW_FORMATS)
@pytest.mark.parametrize("kind", [pd.DataFrame, pd.Series])
def test_sorted_rows_are_an_error(row_format, kind):
    """The index shows that row 0 belongs to another item; without such an index rows are taken in order."""
    value = kind({"a": [1, 2, 3]}) if kind is pd.DataFrame else kind([1, 2, 3])
    with pytest.raises(UnmatchedRows, match="in another order than the items: their index begins with \\[2, 1, 0\\], and"):
        encode(value.iloc[::-1], row_format, True, {}, inputs_of(3))
    assert encode(value.iloc[::-1].reset_index(drop=True), row_format, True, {}, inputs_of(3)).rows == 3
    assert encode(value.set_axis([30, 20, 10]), row_format, True, {}, inputs_of(3)).rows == 3


@pytest.mark.parametrize("row_format", ROW_FORMATS)
@pytest.mark.parametrize("value", [[{"path": 1}], pd.DataFrame({"path": [1]}), pd.Series([1], name="path")])
def test_a_returned_column_of_the_same_name_is_an_error(row_format, value):
    """Two columns of one name would hide one of them."""
    with pytest.raises(ValueError, match="run\\(\\) returned a column 'path', and append_row_input_columns adds one"):
        encode(value, row_format, True, {}, inputs_of(1))


def test_options_of_to_csv_apply():
    """To the whole rows, also those of a list."""
    encoded = encode(["a;b", "c"], "text", True, {"sep": ";"}, inputs_of(2))
    assert (encoded.header + encoded.body).decode() == 'path;value\n/f0;"a;b"\n/f1;c\n'
    with_index = encode(pd.DataFrame({"v": [1, 2]}, index=["x", "y"]), "csv", True, {"index": True}, inputs_of(2))
    assert (with_index.header + with_index.body).decode() == ",path,v\nx,/f0,1\ny,/f1,2\n"


@pytest.mark.parametrize("row_format", ["text", "csv", "jsonl"])
def test_lists_for_files_need_no_pandas(row_format):
    """An environment of the script may lack it."""
    code = (
        "import sys; sys.modules['pandas'] = sys.modules['numpy'] = None\n"
        "from child.rows import encode\nfrom child.input_columns import InputColumns\n"
        "inputs = InputColumns(['path'], ['/a'], {'kind': 'files', 'root': '/', 'names': ['a']})\n"
        f"print(encode([7], {row_format!r}, False, {{}}, inputs).rows)"
    )
    package = Path(__file__).parents[3] / "prefect_parallel_run"
    done = subprocess.run([sys.executable, "-c", code], cwd=package, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "1\n", done.stderr


def test_nested_values_are_copied(tmp_path):
    """A script may change a struct inside a row; a map stays a map in the result."""
    table = pa.table({"l": [{"a": 1}], "m": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))})
    pq.write_table(table, tmp_path / "t.parquet")
    dataset = TabularDataset.from_parquet_files(tmp_path / "t.parquet").with_input_columns(["l", "m"])
    (batch,) = dataset.cuts(1 << 20)
    items = Reader().read(json.loads(batch.work))
    inputs = InputColumns(["l", "m"], items, json.loads(batch.work))
    items["l"][0]["a"] = 99
    items["m"][0].clear()
    joined = inputs.join(["r"], keeps_elements=False)
    assert (joined["l"][0], joined["m"][0]) == ({"a": 1}, Entries([("k", 1)]))
    assert isinstance(joined["m"][0], Entries)


def test_a_fetched_object_has_its_url(tmp_path, monkeypatch):
    """Not the path of the copy that run() reads."""
    import fsspec

    monkeypatch.setattr(prefetch, "check", lambda *_: None)  # the store in memory has no stable versions

    fsspec.filesystem("memory").pipe("/bucket/a/x.txt", b"x")
    (batch,) = FileDataset.from_files("memory://bucket/a").as_named_input("i").cuts(10)
    local = prefetch.fetch(json.loads(batch.work), tmp_path / "f")
    items = Reader().read(local)
    records = InputColumns(["path", "name"], items, local).join(["r"], keeps_elements=True)
    (url,) = [file.path for file in FileDataset.from_files("memory://bucket/a").listing()]
    assert records == [{"path": url, "name": "x.txt", "value": "r"}]


# Planning refuses what the rows cannot have


def test_a_file_has_only_path_and_name():
    """The error names both and the input."""
    with pytest.raises(InputError) as caught:
        FileDataset.from_files("/x").as_named_input("photos").with_input_columns(["pth"])
    reason = "append_row_input_columns: expected path or name for files, got 'pth'; did you mean path?"
    assert str(caught.value) == f"input photos: {reason}"


def cuts_of(path, names, **options):
    dataset = TabularDataset.from_delimited_files(path, **options).as_named_input("t")
    return list(dataset.with_input_columns(names).cuts(1 << 20))


def test_an_unknown_column_is_refused_when_the_input_is_planned(tmp_path):
    """Before any mini-batch runs."""
    (tmp_path / "t.csv").write_text("id,price\n1,2\n")
    with pytest.raises(InputError, match="lacks the column 'pric', which append_row_input_columns names; did you mean price"):
        cuts_of(tmp_path / "t.csv", ["pric"])
    dataset = TabularDataset.from_delimited_files(tmp_path / "t.csv").drop_columns("id").with_input_columns(["id"])
    with pytest.raises(InputError, match="lacks the column 'id', which append_row_input_columns names"):
        list(dataset.cuts(1 << 20))


def test_a_name_with_two_meanings_is_refused(tmp_path):
    """The location of a row, or a column; or one of two columns."""
    (tmp_path / "t.csv").write_text("id,row\n1,2\n")
    with pytest.raises(
        InputError, match="has a column 'row', and 'row' in append_row_input_columns is the location of a row; drop or rename"
    ):
        cuts_of(tmp_path / "t.csv", ["row"])
    assert len(cuts_of(tmp_path / "t.csv", ["id"])) == 1
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="has a column 'a', which is not unique"):
        list(TabularDataset.from_parquet_files(tmp_path / "t.parquet").with_input_columns(["a"]).cuts(1 << 20))


def test_a_partitioned_copy_has_no_location_of_its_rows(tmp_path):
    """The file and the row would be those of the copy; other columns are those of the table."""
    (tmp_path / "t.csv").write_text("id,store\n1,a\n2,b\n3,a\n")
    dataset = TabularDataset.from_delimited_files(tmp_path / "t.csv").as_named_input("t")
    with pytest.raises(InputError, match="got 'row'; partition_keys read the rows from a partitioned copy"):
        list(dataset.with_input_columns(["id", "row"]).partition_cuts(["store"], tmp_path / "store"))
    works = [json.loads(batch.work) for batch in dataset.with_input_columns(["id"]).partition_cuts(["store"], tmp_path / "s")]
    reader = Reader()
    found = [
        InputColumns(["id", "store"], reader.read(work), work).join(["x"] * work["rows"], keeps_elements=True) for work in works
    ]
    assert [[(row["id"], row["store"]) for row in rows] for rows in found] == [[(1, "a"), (3, "a")], [(2, "b")]]


def test_rows_of_hive_folders_are_numbered_in_their_file(tmp_path):
    """A mini-batch of one partition has the rows of several files."""
    for name, numbers in (("1", [1, 2]), ("2", [3])):
        (tmp_path / "k=a").mkdir(exist_ok=True)
        pd.DataFrame({"n": numbers}).to_parquet(tmp_path / "k=a" / f"{name}.parquet")
    dataset = TabularDataset.from_parquet_files(tmp_path).as_named_input("t").with_input_columns(["row", "file", "k", "n"])
    (batch,) = dataset.partition_cuts(["k"], tmp_path / "store")
    work = json.loads(batch.work)
    rows = InputColumns(["row", "file", "k", "n"], Reader().read(work), work).join([0] * 3, keeps_elements=True)
    assert [(row["row"], Path(row["file"]).name, row["k"], row["n"]) for row in rows] == [
        (0, "1.parquet", "a", 1),
        (1, "1.parquet", "a", 2),
        (0, "2.parquet", "a", 3),
    ]


def test_columns_without_a_header_have_numbers(tmp_path):
    """As everywhere else."""
    (tmp_path / "t.csv").write_text("a,7\nb,8\n")
    (batch,) = cuts_of(tmp_path / "t.csv", ["1"], header=False)
    items = Reader().read(json.loads(batch.work))
    encoded = encode(["x", "y"], "csv", True, {}, InputColumns(["1"], items, json.loads(batch.work)))
    assert (encoded.header + encoded.body).decode() == "1,value\n7,x\n8,y\n"


def test_other_plans_are_unchanged(tmp_path):
    """A mini-batch of a finished run must be recognised by its work."""
    (tmp_path / "t.csv").write_text("id\n1\n2\n")
    assert cuts_of(tmp_path / "t.csv", ["id", "file"]) == cuts_of(tmp_path / "t.csv", [])
    (batch,) = cuts_of(tmp_path / "t.csv", ["row"])
    assert json.loads(batch.work)["first_row"] == 0
