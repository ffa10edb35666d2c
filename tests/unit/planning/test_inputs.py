"""Values that users pass are resolved, or raise an error that says what to pass."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from prefect_parallel_run import (
    FileDataset,
    InputError,
    OutputError,
    ParallelRunConfig,
    ParallelRunResult,
    PrefectHomeError,
    RunLockedError,
)
from prefect_parallel_run.planning.inputs import (
    check_arguments,
    check_models,
    fill_placeholders,
    from_result,
    resolve_output,
    resolve_side_inputs,
)
from prefect_parallel_run.runs.fingerprint import differences, digest, machine_key, run_fingerprint
from prefect_parallel_run.runs.run_directory import RunDirectory, check_home, read_json, runs_below, write_json

OPTIONS = [
    *("mini_batch_size", "error_threshold", "allowed_failed_count", "allowed_failed_percent", "output", "output_action"),
    *("logging_level", "process_count_per_node", "run_invocation_timeout", "run_max_try", "append_row_file_name"),
    "partition_keys",
]


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("shape", ["--{}", "--{}=3"])
def test_options_of_parallelrunconfig_are_rejected(option, shape):
    """As arguments of the script they would have no effect."""
    with pytest.raises(ValueError, match=f"--{option} is an option of ParallelRunConfig"):
        check_arguments(["--x", shape.format(option)])


def test_arguments_keep_their_order_and_become_strings():
    """Repeated ones are kept, and a value may look like an option."""
    assert check_arguments(["--a", 1, "--b", 2.5, "--a", Path("/x")]) == ("--a", "1", "--b", "2.5", "--a", "/x")
    assert check_arguments(None) == ()
    assert check_arguments(["--outputs", "--mini-batch-size"]) == ("--outputs", "--mini-batch-size")
    with pytest.raises(ValueError, match=r"expected an option .* as the first, got 'a'"):
        check_arguments(["a"])


def test_placeholders_are_replaced_anywhere_in_an_argument():
    """Other braces stay."""
    data = FileDataset.from_files("/data/in").as_named_input("x")
    given = ["-a={output}/m", "{inputs.x}", "{side_inputs.m}{output}", "{other}", "{}", "{output"]
    expected = ("-a=/out/m", "/data/in", "/m/out", "{other}", "{}", "{output")
    assert fill_placeholders(given, "/out", [data], {"m": "/m"}) == expected
    with pytest.raises(ValueError, match=r"unknown placeholder \{side_inputs.no\}; expected one of: \{inputs.x\}, \{output\}"):
        fill_placeholders(["{side_inputs.no}"], "/out", [data], {})
    with pytest.raises(ValueError, match=r"unknown placeholder \{output\}"):
        fill_placeholders(["{output}"], None, [data], {})


def test_an_output_is_a_folder(tmp_path):
    """A file is refused."""
    assert resolve_output(f"file://{tmp_path}", required=True) == str(tmp_path)
    assert resolve_output(None, required=False) is None
    with pytest.raises(OutputError, match="needs an output folder"):
        resolve_output(None, required=True)
    assert resolve_output("memory://bucket/x/", required=True) == "memory://bucket/x"
    with pytest.raises(OutputError, match=r"nowhere://x: cannot be reached: ValueError: Protocol not known"):
        resolve_output("nowhere://x", required=True)


def test_side_inputs_have_names_and_exist(tmp_path):
    """They are a mapping, or named datasets."""
    (tmp_path / "m").write_text("")
    named = FileDataset.from_files(tmp_path / "m").as_named_input("n")
    assert resolve_side_inputs({"m": tmp_path / "m"}, []) == {"m": str(tmp_path / "m")}
    assert resolve_side_inputs([named], []) == {"n": str(tmp_path / "m")}
    with pytest.raises(InputError, match="side input x does not exist"):
        resolve_side_inputs({"x": tmp_path / "no"}, [])
    with pytest.raises(InputError, match="needs a name"):
        resolve_side_inputs([FileDataset.from_files(tmp_path)], [])
    with pytest.raises(InputError, match="two inputs have this name"):
        resolve_side_inputs({"m": tmp_path / "m"}, ["m"])


@pytest.mark.parametrize(
    ("row_format", "kind"),
    [("parquet", "tabular"), ("orc", "tabular"), ("csv", "tabular"), ("jsonl", "tabular"), ("text", "file")],
)
def test_a_result_becomes_a_dataset_of_its_output(row_format, kind):
    """It becomes a table if its format has columns."""
    fields = {
        "name": "a",
        "run_id": "r",
        "output": "/o",
        "output_file": "/o/f",
        "output_format": row_format,
        "run_directory": "/o/r",
        "receipt": "/o/r/receipt.json",
        "mini_batches_total": 1,
        "mini_batches_succeeded": 1,
        "mini_batches_failed": 0,
        "items_total": 1,
        "items_succeeded": 1,
        "items_failed": 0,
        "rows": 1,
        "seconds": 1.0,
        "limits": {},
    }
    dataset = from_result(ParallelRunResult(**fields))
    assert (dataset.kind, dataset.paths) == (kind, ["/o/f"])


@pytest.fixture
def config(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "score.py").write_text("def run(m): return m")

    def make(**fields):
        given = {"entry_script": "score.py", "source_directory": str(tmp_path / "code"), "error_threshold": 0}
        return ParallelRunConfig(**{**given, "output_action": "append_row", **fields})

    return make


def identify(config, **fields):
    given = {"inputs": [], "arguments": [], "side_inputs": {}, "key": b"k"}
    return digest(run_fingerprint(config, **{**given, **fields})["identity"])


def test_only_fields_that_shape_the_result_change_the_fingerprint(config, tmp_path):
    """A run can be resumed with other nodes, limits and timeouts."""
    same = identify(config())
    unshaping = {"node_count": 3, "process_count_per_node": 2, "run_invocation_timeout": 5, "error_threshold": 9}
    unshaping |= {"mini_batches_per_minute": 60, "retry_backoff_factor": 2, "retry_jitter_factor": 1}
    assert identify(config(**unshaping, run_max_try=1, logging_level="DEBUG", allowed_failed_count=1)) == same
    others = [
        identify(config(mini_batch_size=3)),
        identify(config(append_row_header=True)),
        identify(config(append_row_csv_options={"sep": ";"})),
        identify(config(append_row_input_columns=["path"])),
        identify(config(append_row_input_columns=["path", "name"])),
        identify(config(output_action="summary_only")),
        identify(config(environment_variables={"A": "1"})),
        identify(config(environment_variables={"A": "2"})),
        identify(config(), inputs=[{}]),
        identify(config(), arguments=["-x"]),
    ]
    side = tmp_path / "model"
    for text in ("a", "bb"):
        side.write_text(text)
        others.append(identify(config(), side_inputs={"m": str(side)}))
        others.append(identify(config(models={"m": str(side)})))
    others.append(identify(config(), side_inputs={"m": str(tmp_path / "code")}))
    (tmp_path / "code" / "helper.txt").write_text("x")
    others.append(identify(config()))
    (tmp_path / "code" / "score.py").write_text("def run(m): return []")
    others.append(identify(config()))
    assert len({same, *others}) == len(others) + 1


def test_fingerprints_of_earlier_versions_still_match(config):
    """New fields count only if they are used."""
    now = run_fingerprint(config(), inputs=[], arguments=[], side_inputs={}, key=b"k")
    assert "models" not in now["identity"]
    assert not {"append_row_csv_options", "append_row_input_columns"} & now["shaping"].keys()


def test_changed_models_are_named(config, tmp_path):
    """So are added and deleted ones; runs of earlier versions had none."""
    model = tmp_path / "m"

    def now(text):
        model.write_text(text)
        return run_fingerprint(config(models={"m": str(model)}), inputs=[], arguments=[], side_inputs={}, key=b"k")

    without = run_fingerprint(config(), inputs=[], arguments=[], side_inputs={}, key=b"k")
    before = now("a")
    assert list(differences(before, now("bb"))) == ["model m has changed"]
    assert list(differences(before, without)) == ["model m no longer exists"]
    assert list(differences(without, before)) == ["model m is new"]


def test_a_missing_model_is_an_error(tmp_path):
    """It is checked when the step runs: an earlier step of the flow may create it."""
    check_models({"m": str(tmp_path)})
    with pytest.raises(InputError, match="model m does not exist"):
        check_models({"m": str(tmp_path / "none")})


def test_the_content_of_a_conda_file_counts_not_its_path(config, tmp_path):
    """It determines the packages of the script."""
    found = []
    for name, text in (("a.yml", "dependencies: [python=3.11]"), ("b.yml", "dependencies: [python=3.11]"), ("a.yml", "other")):
        (tmp_path / name).write_text(text)
        found.append(identify(config(environment={"conda_file": str(tmp_path / name)})))
    assert found[0] == found[1] != found[2]
    assert identify(config(environment={"requirements": ["six"]})) != identify(config(environment={"requirements": ["attrs"]}))


def test_an_output_below_the_source_is_not_code(config, tmp_path):
    """The source itself stays code although it contains run directories."""
    before = identify(config())
    (tmp_path / "code" / "out" / "_parallel_run").mkdir(parents=True)
    (tmp_path / "code" / "out" / "result.txt").write_text("rows")
    assert identify(config()) == before
    (tmp_path / "code" / "_parallel_run").mkdir()
    (tmp_path / "code" / "_parallel_run" / "ledger").write_text("x")
    assert identify(config()) == before
    (tmp_path / "code" / "score.py").write_text("def run(m): return []")
    assert identify(config()) != before


def test_secrets_are_not_in_the_fingerprint(config):
    """It contains only a keyed hash of them."""
    parts = run_fingerprint(
        config(environment_variables={"TOKEN": "hunter2"}), inputs=[], arguments=[], side_inputs={}, key=b"k"
    )
    assert "hunter2" not in json.dumps(parts)


def test_the_machine_key_is_created_once_and_is_private(tmp_path):
    """It has 32 bytes, readable only by its owner."""
    first = machine_key(tmp_path / "home")
    assert machine_key(tmp_path / "home") == first
    assert len(first) == 32
    assert (tmp_path / "home" / "prefect_parallel_run.key").stat().st_mode & 0o077 == 0


@pytest.fixture
def unprivileged():
    """Have this process be a user who may write only where all may."""
    user = os.geteuid()
    folder = tempfile.mkdtemp(dir="/tmp")  # that user cannot enter pytest's folders
    os.chmod(folder, 0o755 if user == 0 else 0o555)
    if user == 0:
        os.seteuid(65534)
    yield Path(folder)
    os.seteuid(user)
    shutil.rmtree(folder)


@pytest.mark.parametrize("home", [".", "new/home"])
def test_a_read_only_home_is_named(unprivileged, home):
    """The error also names the variable to change."""
    home = unprivileged / home
    for use in (machine_key, check_home):
        with pytest.raises(PrefectHomeError) as caught:
            use(home)
        assert str(caught.value).startswith(f"PREFECT_HOME is {home}, which is not writable: ")
        assert "Permission denied; set the environment variable PREFECT_HOME to a folder" in str(caught.value)


def test_a_home_below_a_file_is_named(tmp_path):
    """It cannot be created."""
    (tmp_path / "file").touch()
    for use in (machine_key, check_home):
        with pytest.raises(PrefectHomeError, match=r"file/home, which is not writable: .*Not a directory"):
            use(tmp_path / "file" / "home")
    check_home(tmp_path / "new" / "home")
    assert list((tmp_path / "new" / "home").iterdir()) == []


def test_a_lock_belongs_to_one_process_and_ends_with_it(tmp_path):
    """A second process gets an error with the owner's name; a dead owner's lock is free."""
    directory = RunDirectory(tmp_path)
    with directory.lock(), pytest.raises(RunLockedError) as caught:
        directory.lock()
    assert caught.value.owner == f"process {os.getpid()}"
    code = (
        "import os, sys, pathlib\n"
        "from prefect_parallel_run.runs.run_directory import RunDirectory\n"
        "RunDirectory(pathlib.Path(sys.argv[1])).lock()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60)
    directory.lock().release()


def test_runs_below_finds_runs_with_a_description(tmp_path):
    """The newest is first; a folder without description was never started."""
    for number, name in enumerate(["a-1", "a-2", "b-1"]):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "run.json", {"number": number})
        os.utime(tmp_path / name / "run.json", ns=(number, number))
    (tmp_path / "a-3").mkdir()
    assert [run.run_id for run in runs_below(tmp_path, "a-")] == ["a-2", "a-1"]
    assert read_json(tmp_path / "a-2" / "run.json") == {"number": 1}
    assert list(runs_below(tmp_path / "absent", "a-")) == []
