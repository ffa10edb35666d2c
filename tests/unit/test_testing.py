"""run_script: what users test an entry script with."""

import asyncio
import gc
import sys

import pandas as pd
import pytest

from prefect_parallel_run import EntryScript, InputError
from prefect_parallel_run.child import event_loop
from prefect_parallel_run.testing import TaskNotCancelled, UnmatchedRows, run_script

from ..conftest import SCRIPTS


@pytest.fixture
def script(tmp_path):
    def write(text):
        path = tmp_path / "score.py"
        path.write_text(text)
        return path

    return write


def test_rows_and_counts_are_those_of_a_step(script):
    """The second mini-batch returns one row for two items."""
    path = script("def run(mini_batch):\n    return [name.upper() for name in mini_batch if name != 'd']\n")
    result = run_script(path, ["a", "b", "c", "d"], mini_batch_size=2)
    assert result == (["A", "B", "C"], [b"A\nB\n", b"C\n"], 4, 3, 1)


ASYNC = (
    "import asyncio\n"
    "loops = set()\n"
    "async def note():\n    loops.add(asyncio.get_running_loop())\n"
    "init = note\n"
    "async def run(mini_batch):\n    await note()\n    return [len(loops), *(1 / len(name) for name in mini_batch)]\n"
    "async def shutdown():\n    await note()\n    print(len(loops))\n"
)


def test_coroutines_run_on_one_event_loop(script, capsys):
    result = run_script(script(ASYNC), ["a", "b"], mini_batch_size=1)
    assert result.rows == [1, 1, 1, 1]
    assert capsys.readouterr().out == "1\n"


@pytest.fixture
def own_loop():
    """The event loop of the test, as that of a notebook."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()


def test_an_event_loop_of_the_caller_stays(script, own_loop):
    """After an error too; an unclosed loop would be a ResourceWarning, which is an error here."""
    run_script(script(ASYNC), ["a"])
    with pytest.raises(ZeroDivisionError):
        run_script(script(ASYNC), [""])
    gc.collect()
    assert asyncio.get_event_loop() is own_loop


def test_a_task_that_cannot_be_cancelled_is_an_error(script, monkeypatch):
    monkeypatch.setattr(event_loop, "_PATIENCE", 0.05)
    path = script(
        "import asyncio\n"
        "async def poll():\n"
        "    while True:\n"
        "        try:\n            await asyncio.Event().wait()\n"
        "        except asyncio.CancelledError:\n            pass\n"
        "async def run(mini_batch):\n"
        "    run.task = asyncio.create_task(poll())\n"
        "    await asyncio.sleep(0)\n"
        "    return mini_batch\n"
    )
    with pytest.raises(TaskNotCancelled, match=r"poll\(\) in score.py, line 5"):
        run_script(path, ["a", "b"], mini_batch_size=1)


def test_more_rows_than_items_do_not_add_successes(script):
    path = script("def run(mini_batch):\n    return [1, 2, 3]\n")
    result = run_script(path, ["a", "b"])
    assert (result.rows, result.succeeded, result.failed) == ([1, 2, 3], 2, 0)


def test_init_and_shutdown_are_called_once_in_order(script):
    path = script(
        "calls = []\n"
        "def init():\n    calls.append('init')\n"
        "def run(mini_batch, context):\n    calls.append(context.minibatch_index)\n    return calls[:]\n"
        "def shutdown():\n    raise RuntimeError(calls)\n"
    )
    with pytest.raises(RuntimeError, match=r"\['init', 0, 1, 2\]"):
        run_script(path, ["a", "b", "c"], mini_batch_size=1)


def test_a_table_arrives_in_parts_with_rows_numbered_from_0(script):
    path = script("def run(df):\n    return df.assign(first=df.index[0])\n")
    result = run_script(path, pd.DataFrame({"a": [1, 2, 3]}), mini_batch_size=2, append_row_format="jsonl")
    assert result.rows == [{"a": 1, "first": 0}, {"a": 2, "first": 0}, {"a": 3, "first": 0}]
    assert b"".join(result.encoded) == b'{"a":1,"first":0}\n{"a":2,"first":0}\n{"a":3,"first":0}\n'


@pytest.mark.parametrize("value", ["np.array([1, 2])", "pd.Series([1, 2])", "(1, 2)", "(number for number in (1, 2))"])
def test_every_kind_of_result_has_rows(script, value):
    path = script(f"import numpy as np, pandas as pd\ndef run(mini_batch):\n    return {value}\n")
    assert run_script(path, ["a", "b"]).rows == [1, 2]


def test_a_two_dimensional_array_has_columns(script):
    path = script("import numpy as np\ndef run(mini_batch):\n    return np.array([[1, 2], [3, 4]])\n")
    assert run_script(path, ["a", "b"]).rows == [{0: 1, 1: 2}, {0: 3, 1: 4}]


def test_arguments_and_the_environment_reach_the_script_and_are_restored(script, tmp_path):
    (tmp_path / "beside.py").write_text("NAME = 'beside'\n")
    path = script(
        "import sys\nimport beside\nfrom prefect_parallel_run import EntryScript\n"
        "def run(mini_batch):\n"
        "    here = EntryScript()\n"
        "    return [sys.argv[1:], beside.NAME, here.side_inputs['model'], here.output_dir]\n"
    )
    argv, paths = sys.argv, sys.path[:]
    result = run_script(path, ["a"], arguments=["--n", "1"], side_inputs={"model": "m.bin"}, output="out")
    assert result.rows == [["--n", "1"], "beside", "m.bin", "out"]
    assert (sys.argv, sys.path) == (argv, paths)
    assert not {"score", "beside"} & set(sys.modules)
    assert (EntryScript.side_inputs, EntryScript.output_dir) == ({}, "")


def test_each_call_imports_the_script_again(script):
    run_script(script("def run(mini_batch):\n    return [1]\n"), ["a"])
    assert run_script(script("def run(mini_batch):\n    return [2 + 40]\n"), ["a"]).rows == [42]


def test_an_empty_input_calls_only_init_and_shutdown(script):
    path = script("def run(mini_batch):\n    raise AssertionError\n")
    assert run_script(path, []) == ([], [], 0, 0, 0)


def test_errors_of_the_script_reach_the_test(script):
    path = script("def run(mini_batch):\n    return 1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        run_script(path, ["a"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def run(mini_batch):\n    return 'text'\n", "run() returned str 'text'; return a list"),
        ("def score(mini_batch):\n    return []\n", "it lacks a function run(mini_batch)"),
        ("def init():\n    yield\ndef run(mini_batch):\n    return []\n", "its init() is a generator; expected def or async"),
    ],
)
def test_what_a_step_would_refuse_is_refused(script, text, message):
    with pytest.raises(Exception) as error:
        run_script(script(text), ["a"])
    assert message in str(error.value)


def test_wrong_arguments_are_named(script, tmp_path):
    path = script("def run(mini_batch):\n    return mini_batch\n")
    with pytest.raises(InputError, match=r"none\.py: does not exist"):
        run_script(tmp_path / "none.py", ["a"])
    with pytest.raises(ValueError, match="mini_batch_size: expected a positive integer or None, got 0"):
        run_script(path, ["a"], mini_batch_size=0)
    with pytest.raises(ValueError, match="append_row_format: expected one of text, csv, jsonl, parquet, orc, got 'xml'"):
        run_script(path, ["a"], append_row_format="xml")


def test_input_columns_of_files_are_in_the_encoded_rows(script):
    """The rows stay what run() returned, also when it empties the list that it gets."""
    path = script(
        "def run(mini_batch):\n    sizes = [len(name) for name in mini_batch]\n    mini_batch.clear()\n    return sizes\n"
    )
    options = {"append_row_format": "csv", "append_row_input_columns": ["name", "path"]}
    result = run_script(path, ["/d/a", "/d/bb", "/d/c"], mini_batch_size=2, **options)
    assert (result.rows, result.encoded) == ([4, 5, 4], [b"a,/d/a,4\nbb,/d/bb,5\n", b"c,/d/c,4\n"])
    assert (result.succeeded, result.failed) == (3, 0)


def test_input_columns_of_a_table_are_in_the_encoded_rows(script):
    path = script("def run(mini_batch):\n    return [None if n == 2 else 2**60 + 1 for n in mini_batch['n']]\n")
    table = pd.DataFrame({"n": [1, 2, 3], "word": ["a", "b c", "d"]})
    result = run_script(path, table, mini_batch_size=2, append_row_input_columns=["row", "word"])
    assert result.encoded == [b'0 a 1152921504606846977\n1 "b c" \n', b"2 d 1152921504606846977\n"]


def test_rows_that_do_not_match_the_items_are_an_error(script):
    with pytest.raises(UnmatchedRows, match="run\\(\\) returned 1 row for 2 items"):
        run_script(script("def run(mini_batch):\n    return [1]\n"), ["a", "b"], append_row_input_columns=["path"])


PATHS, TABLE = ["a", "b"], pd.DataFrame({"n": [1, 2]})


@pytest.mark.parametrize(
    ("items", "columns", "message"),
    [
        (PATHS, ["row"], "expected one of path, name, got 'row'"),
        (TABLE, ["file"], "expected one of n, row, got 'file'"),
        (
            TABLE.rename(columns={"n": "row"}),
            ["row"],
            "the DataFrame has a column 'row', and the number of a row has this name",
        ),
        (pd.concat([TABLE, TABLE], axis=1), ["n"], "the DataFrame has a column 'n', which is not unique; rename the column"),
        (PATHS, "path", "expected a list of different names, got 'path'"),
        (PATHS, ["path", "path"], r"expected a list of different names, got \['path', 'path'\]"),
    ],
    ids=["files", "table", "row", "not unique", "string", "repeated"],
)
def test_input_columns_without_one_meaning_are_an_error(script, items, columns, message):
    """A DataFrame has no file, and a column called row leaves open which value is meant."""
    with pytest.raises(ValueError, match=f"append_row_input_columns: {message}"):
        run_script(script("def run(mini_batch):\n    return [1, 2]\n"), items, append_row_input_columns=columns)


def test_a_script_gets_paths_as_strings(script, tmp_path):
    """As in a step."""
    path = script("def run(mini_batch):\n    return [path + '!' for path in mini_batch]\n")
    result = run_script(path, [tmp_path / "a"], append_row_input_columns=["name"])
    assert (result.rows, result.encoded) == ([f"{tmp_path}/a!"], [f"a {tmp_path}/a!\n".encode()])


def test_a_module_imported_by_run_makes_no_step(script, tmp_path):
    """As in a process of a step, which cannot import Prefect."""
    (tmp_path / "late.py").write_text((SCRIPTS / "from_functions.py").read_text())
    path = script("def run(mini_batch):\n    import late\n    return [type(late.later).__name__]\n")
    assert run_script(path, ["a"]).rows == ["StepFunctions"]
