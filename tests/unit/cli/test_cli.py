"""The command line on plain values: options, exit codes and output."""

import fcntl
import json
import os
import sqlite3
import threading
from pathlib import Path

import pandas as pd
import pytest

from prefect_parallel_run import FileDataset
from prefect_parallel_run.cli import main
from prefect_parallel_run.cli._command import MEANING, BrokenOutputError, Exit, emit_array, exit_code_of
from prefect_parallel_run.cli._run_command import next_steps
from prefect_parallel_run.cli.app import COMMANDS, program
from prefect_parallel_run.cli.step_options import (
    dataset_options,
    paths_in,
    read_step_options,
    split_arguments,
    split_name,
    step_name,
)
from prefect_parallel_run.errors import (
    ComputeTargetError,
    EntryScriptError,
    InputChangedError,
    LimitExceededError,
    RowsDifferError,
    RunLockedError,
)
from prefect_parallel_run.models import PlannedBatch, Receipt
from prefect_parallel_run.planning.planner import PlanWriter
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory, write_json
from prefect_parallel_run.storage.paths import RUNS_FOLDER

from ...plans import write_plan


@pytest.fixture
def config(tmp_path, scripts):
    """A configuration file."""
    path = tmp_path / "score images.yml"
    path.write_text(
        "parallel_run_config:\n"
        f"  source_directory: {scripts}\n"
        "  entry_script: echo.py\n"
        "  error_threshold: 5\n"
        "  output_action: append_row\n"
        "  run_max_try: 2\n"
        "  process_count_per_node: 4\n"
    )
    return path


def parse(command, *words):
    """The values of a command's options."""
    with program.make_context("prefect-parallel-run", [command]) as context:
        return program.get_command(context, command).make_context(command, list(map(str, words)), parent=context).params


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (BrokenOutputError(), 141),
        (RunLockedError("/run", "process 1", "host"), 3),
        (LimitExceededError("error_threshold", 1, 2), 1),
        (sqlite3.DatabaseError("broken"), 1),
        (FileNotFoundError(2, "No such file"), 1),
        (ValueError("wrong"), 2),
        (AttributeError("a bug"), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_error_has_its_exit_code(error, code):
    """Except an unexpected one, a bug, which shows its traceback."""
    assert exit_code_of(error) == code
    assert code is None or MEANING[Exit(code)]


def test_help_lists_exit_codes_and_commands(capsys):
    """Enough to write a script without reading the source."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    words = capsys.readouterr().out
    assert all(f"{code:>5}  {meaning}"[:60] in words for code, meaning in MEANING.items())
    assert all(
        f"\n  {name} " in words
        for name in ("run", "plan", "try", "show", "list", "failed", "resume", "replay", "verify", "report")
    )
    assert all(f"\n  {name} " in words for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    """Under its name in the registry, in 80 columns, with --json."""
    with pytest.raises(SystemExit) as ended:
        main([name, "-h"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Usage: prefect-parallel-run {name} [OPTIONS] ")
    assert any("--json" in line for line in lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "'rnu' is not a command; expected one of run, plan, try, show, "),
        (["show"], "Missing argument 'RUN_DIR'"),
        (["replay", "x"], "Missing option '--mini-batch'"),
        (["replay", "x", "--mini-batch", "one"], "'--mini-batch': 'one' is not a valid integer"),
        (["resume", "x", "--allowed-failed-percent", "all"], "'--allowed-failed-percent': 'all' is not a valid float"),
        (["control", "x", "stop"], "'stop' is not one of 'pause', 'continue', 'limits', 'processes'"),
        (["plan", "c.yml", "--format", "xml"], "'xml' is not one of 'files', 'parquet', "),
        (["plan", "c.yml", "--inptu", "x"], "No such option"),
        (["failed", "x", "--items", "--mini-batches"], "--items and --mini-batches exclude each other"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_a_wrong_option_is_named_with_its_value(arguments, message, capsys):
    """And with what is expected; exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["processes"], "processes: expected N, the number of processes per node, got nothing\n"),
        (["pause", "3"], "pause: expected no values, got N, the number of processes per node\n"),
        (["continue", "--error-threshold", "3"], "continue: expected no values, got --error-threshold\n"),
        (["limits"], "limits: expected one or more of --error-threshold, --allowed-failed-count, "),
    ],
    ids=["processes", "pause", "continue", "limits"],
)
def test_a_wrong_control_command_is_named_as_it_is_written(arguments, message, capsys):
    """By options, not by the configuration fields that they change; before the run is looked for."""
    assert main(["control", "missing", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_options_become_a_step(config, files, tmp_path):
    """Names, several paths, lists, side inputs, overridden fields, and the script's arguments after the two dashes."""
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    names = [hostile / "a[1].txt", hostile / "line\nend"]
    for path in names:
        path.write_text("x")
    lists = tmp_path / "list"
    lists.write_bytes(b"".join(bytes(path) + b"\0" for path in names))
    options = read_step_options(
        parse(
            "run", config, "--input", f"pictures={files}/f00*.txt", files / "f010.txt", "--input", files / "f011.txt",
            "--input-list", lists, "--side-input", f"model={config}", "--output", tmp_path / "out", "--no-reuse",
            "--set", "node_count=3", "--set", "mini_batch_size=10MB", "--set", "description='no'",
            "--", "--model", "m", "--input",
        ),
        for_run=True,
    )  # fmt: skip
    assert [(dataset.name, len(list(dataset.listing()))) for dataset in options.inputs] == [
        ("pictures", 11),
        ("input_1", 1),
        ("input_2", 2),
    ]
    assert [listed.path for listed in options.inputs[2].listing()] == sorted(map(str, names))
    assert options.arguments == ["--model", "m", "--input"]
    assert options.side_inputs == {"model": str(config)}
    assert (options.name, options.output, options.allow_reuse) == ("score images", str(tmp_path / "out"), False)
    fields = options.config
    assert (fields.node_count, fields.mini_batch_size, fields.description) == (3, 10 << 20, "no")


def test_a_query_in_a_file_keeps_its_lines(config, tmp_path):
    """In one line, the comment would hide the condition, and the step would process other rows."""
    query = "SELECT n -- the key\n\nFROM t -- all of it\nWHERE n > 5 AND s = 'a\n\nb'\n"
    file = tmp_path / "query.sql"
    file.write_text(query, encoding="utf-8-sig")
    options = ["--format", "sql", "--uri", "sqlite:///shop.db", "--input-list", file]
    (dataset,) = read_step_options(parse("try", config, *options), for_run=False).inputs
    assert dataset.query == query


def test_options_of_formats():
    """Only those of the format are accepted; a tab can be written as a shell passes it."""
    assert dataset_options("delimited", {"delimiter": "\\t", "header": False, "quote": None}) == {
        "delimiter": "\t",
        "header": False,
    }
    assert dataset_options("json-lines", {"compression": "none"}) == {"compression": None}
    assert dataset_options("delimited", {"column_types": ["id=string", "a=b=Int64"], "na_values": ["n.v.", "-"]}) == {
        "column_types": {"id": "string", "a=b": "Int64"},
        "na_values": ["n.v.", "-"],
    }
    assert dataset_options("delimited", {"keep_default_na": False}) == {"keep_default_na": False}
    assert dataset_options("orc", {"keep_columns": ("a", "b=c")}) == {"keep_columns": ["a", "b=c"]}
    with pytest.raises(ValueError, match=r"--drop-column works only with --format parquet and .*, not with files"):
        dataset_options("files", {"drop_columns": ("a",)})
    with pytest.raises(ValueError, match="--no-default-na works only with --format delimited, not with orc"):
        dataset_options("orc", {"keep_default_na": False})
    with pytest.raises(ValueError, match="--column-type: expected NAME=TYPE, such as id=string, got 'id'"):
        dataset_options("delimited", {"column_types": ["id"]})
    with pytest.raises(ValueError, match="--na-value works only with --format delimited, not with files"):
        dataset_options("files", {"na_values": ["-"]})
    with pytest.raises(ValueError, match="--no-header works only with --format delimited, not with parquet"):
        dataset_options("parquet", {"header": False})


def test_a_path_with_an_equals_sign_is_a_path_where_it_exists(tmp_path, monkeypatch):
    """Hive folders look like NAME=PATH."""
    monkeypatch.chdir(tmp_path)
    Path("store=1").mkdir()
    assert split_name("store=1") == (None, "store=1")
    assert split_name("store=2") == ("store", "2")


def test_names_and_lists():
    """Names lose odd characters; lists keep every byte of a path."""
    assert step_name("/configs/über-score_v2.yaml") == "ber-score_v2"
    assert step_name("….yml") == "parallel-run"
    assert paths_in(b"\n\na\r\n") == ["a\r"], "a name may end in anything where not all lines end in CR LF"
    assert paths_in(b"\xef\xbb\xbfa\r\n\r\nb c\r\n") == ["a", "b c"], "as Windows writes it"
    assert paths_in(b"\xff.txt\n") == ["\udcff.txt"]
    assert split_arguments(["show", "x"]) == (["show", "x"], [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing.yml", "--input", "x", "--output", "o"], "nothing.yml: configuration file not found"),
        (["run", "CONFIG", "--output", "o"], "no input; pass --input or --input-list"),
        (["run", "CONFIG", "--input", "FILES"], "--output is missing"),
        (
            ["run", "CONFIG", "--input", "FILES", "--output", "o", "--set", "node_cuont=2"],
            "--set: unknown field 'node_cuont'; did",
        ),
        (["run", "CONFIG", "--input", "FILES", "--output", "o", "--set", "node_count=0"], "--set: node_count is 0"),
        (
            ["run", "CONFIG", "--input", "FILES", "--output", "o", "--set", "node_count=010"],
            "--set node_count, line 1: 010 is a",
        ),
        (
            ["run", "CONFIG", "--input", "FILES", "--output", "o", "--set", "node_count"],
            "--set: expected FIELD=VALUE, such as node_count=2, got 'node_count'",
        ),
        (
            ["run", "CONFIG", "--input", "FILES", "--output", "o", "--", "model"],
            "arguments: expected an option that starts with '-' as the first, got 'model'",
        ),
        (
            ["run", "CONFIG", "--input", "FILES", "--output", "o", "--set", "compute_target=cpu-cluster"],
            "compute_target: 'cpu-cluster' is not the name of a cluster here; pass --set compute_target=local",
        ),
        (
            ["plan", "CONFIG", "--input", "FILES", "--delimiter", ";"],
            "--delimiter works only with --format delimited, not with files",
        ),
        (
            ["plan", "CONFIG", "--input", "FILES", "--format", "delimited", "--delimiter", "ab"],
            "--delimiter: delimiter: expected one ASCII character",
        ),
        (
            ["plan", "CONFIG", "--input", "FILES", "--format", "delimited", "--column-type", "id=text", "--na-value", "-"],
            "--column-type: column_types['id']: expected one of string, ",
        ),
        (
            ["plan", "CONFIG", "--input", "FILES", "--format", "orc", "--keep-column", "a", "--keep-column", "a"],
            "--keep-column: keep_columns: expected different columns, got 'a' more than once",
        ),
        (
            ["plan", "CONFIG", "--input", "FILES", "--format", "orc", "--keep-column", "a", "--drop-column", "b"],
            "set either keep_columns or drop_columns, not both",
        ),
        (["failed", "RUN", "--null"], "--null works only with --items"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_a_usage_error_is_one_line(config, files, arguments, message, capsys):
    """On stderr, with the option or the field in it; nothing on stdout."""
    paths = {"CONFIG": str(config), "FILES": str(files)}
    assert main([paths.get(argument, argument) for argument in arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
    assert len(output.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "CONFIG", "--input", "missing", "--output", "o"], "missing: does not exist"),
        (["run", "CONFIG", "--input", "nostore://a/b", "--output", "o"], "Protocol not known: nostore"),
        (["plan", "CONFIG", "--input-list", "missing"], "missing: No such file or directory"),
        (["show", "missing"], "run missing: does not exist"),
        (["control", "missing", "pause"], "run missing: does not exist"),
        (["show", "FILES"], "is not a run directory: it has no run.json"),
        (["list", "FILES"], "contains no runs"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_a_missing_file_is_one_line_and_json_on_request(config, files, arguments, message, capsys, monkeypatch):
    """Before anything is started for it."""
    monkeypatch.chdir(config.parent)
    paths = {"CONFIG": str(config), "FILES": str(files)}
    assert main([*(paths.get(argument, argument) for argument in arguments), "--json"]) == 1
    output = capsys.readouterr()
    assert message in output.err
    assert len(output.err.splitlines()) == 1
    assert json.loads(output.out)["error"]["message"] == output.err.strip()
    assert not Path("o").exists()


def test_ignored_azure_fields_are_listed_on_one_line(config, files, capsys):
    """On stderr, without the source line of the warning."""
    config.write_text(config.read_text() + "  environment_name: prs\n")
    options = read_step_options(parse("plan", config, "--input", files), for_run=False)
    assert options.config.environment is None
    assert capsys.readouterr().err == f"{config}: ignoring parts of Azure's environment: environment_name prs\n"


def test_commands_without_a_script_reject_arguments_for_it(capsys):
    """Only run, plan and try pass them to a script."""
    with pytest.raises(SystemExit) as ended:
        main(["show", "x", "--", "--model", "m"])
    assert ended.value.code == 2
    assert "only for the commands run, plan and try" in capsys.readouterr().err


def test_errors_suggest_next_steps():
    """Raise a limit; resume a run that was cancelled or lost its cluster; quote paths for the shell."""
    limit = LimitExceededError("allowed_failed_count", 1, 2)
    assert [line for line, _ in next_steps(limit, "/my runs/a")] == [
        "prefect-parallel-run failed '/my runs/a'",
        "prefect-parallel-run resume '/my runs/a' --allowed-failed-count N",
        "prefect-parallel-run resume '/my runs/a' --retry-failed",
    ]
    for error in (KeyboardInterrupt(), ComputeTargetError("local", "gone"), OSError()):
        assert [line for line, _ in next_steps(error, "/a")] == ["prefect-parallel-run resume /a"]
    assert "--accept-changes" in next_steps(InputChangedError("/a", ("x",)), "/a")[0][0]
    assert [line for line, _ in next_steps(RowsDifferError("/out", "differ", 7), "/a")] == [
        "prefect-parallel-run replay /a --mini-batch 7"
    ]
    assert len(next_steps(EntryScriptError("a.py", "fails"), "/a")) == 2
    assert next_steps(ValueError(), "/a") == []


def test_a_json_array_is_streamed(capsys):
    """Also an empty one."""
    emit_array(iter([{"a": 1}, {"b": "\udcff"}]))
    assert json.loads(capsys.readouterr().out) == [{"a": 1}, {"b": "\udcff"}]
    emit_array(iter(()))
    assert json.loads(capsys.readouterr().out) == []


# plan


def planned(capsys, *words):
    assert main(["plan", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_plan_prints_sizes_and_limits_and_leaves_no_files(config, files, tmp_path, capsys, monkeypatch):
    """Neither in the output nor in the temporary folder."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = sorted(tmp_path.rglob("*"))
    words = ("--set", "allowed_failed_percent=25", "--set", "node_count=2", "--json", "--", "--at", "{output}")
    assert main(["plan", str(config), "--input", str(files), "--output", str(tmp_path / "out"), *words]) == 0
    output = json.loads(capsys.readouterr().out)
    assert sorted(tmp_path.rglob("*")) == before
    assert (output["mini_batches"], output["items"], output["bytes"]) == (10, 100, 290)
    assert output["items_per_mini_batch"] == {"least": 10, "median": 10, "most": 10}
    assert output["bytes_per_mini_batch"] == {"least": 20, "median": 30.0, "most": 30}
    assert [entry["mini_batch"] for entry in output["first"] + output["last"]] == [0, 1, 2, 7, 8, 9]
    assert output["last"][-1]["paths"][-1] == str(files / "f099.txt")
    assert (output["nodes"], output["processes"], output["tries_at_most"]) == (2, 8, 20)
    assert output["limits"] == {"failed_items": 5, "failed_mini_batches": 2}
    assert main(["plan", str(config), "--input", str(files)]) == 0
    words = capsys.readouterr().out
    for expected in (
        "10 mini-batches, 100 items, 290 bytes",
        "… 4 more …",
        "processes on each: 4, 4 in all",
        "allows 5 failed",
    ):
        assert expected in words


@pytest.mark.parametrize("kind", ["parquet", "delimited", "json-lines", "arrow", "orc"])
def test_plan_counts_rows_of_tables(config, tmp_path, kind, capsys):
    """Every row once, in order."""
    frame = pd.DataFrame({"a": range(1000), "b": ["x" * 20] * 1000})
    path = tmp_path / "table"
    {
        "parquet": lambda: frame.to_parquet(path, row_group_size=100),
        "delimited": lambda: frame.to_csv(path, index=False, sep="\t"),
        "json-lines": lambda: frame.to_json(path, orient="records", lines=True),
        "arrow": lambda: frame.to_feather(path),
        "orc": lambda: frame.to_orc(path),
    }[kind]()
    more = ["--delimiter", "\\t"] if kind == "delimited" else []
    output = planned(capsys, config, "--input", f"rows={path}", "--format", kind, "--set", "mini_batch_size=4KB", *more)
    assert output["items"] == 1000
    assert output["first"][0]["input"] == "rows"
    assert output["first"][0]["path"] == str(path)
    assert main(["plan", str(config), "--input", str(path), "--format", kind, *more]) == 0
    assert f"0: {path}, " in capsys.readouterr().out


def test_plan_warns_about_a_doubtful_delimiter(config, tmp_path, capsys):
    """Before any time is spent on a run."""
    (tmp_path / "t.csv").write_text("a;b\n1;2\n")
    output = planned(capsys, config, "--input", str(tmp_path / "t.csv"), "--format", "delimited")
    assert output["notes"] == [f"{tmp_path}/t.csv has one column, 'a;b' (delimiter ','); is the delimiter ';'?"]
    assert main(["plan", str(config), "--input", str(tmp_path / "t.csv"), "--format", "delimited"]) == 0
    assert f"  note: {output['notes'][0]}\n" in capsys.readouterr().out


def test_plan_with_partition_keys(config, tmp_path, capsys):
    """In hive folders and in columns; plan does not write the partitioned table."""
    frame = pd.DataFrame({"store": [1, 2, 1, 2], "x": [1.0, 2.0, 3.0, 4.0]})
    frame.to_parquet(tmp_path / "hive", partition_cols=["store"])
    frame.to_parquet(tmp_path / "flat.parquet")
    for name in ("hive", "flat.parquet"):
        output = planned(capsys, config, "--input", tmp_path / name, "--format", "parquet", "--set", "partition_keys=[store]")
        assert [entry["partition_key_value"] for entry in output["first"]] == [{"store": 1}, {"store": 2}]
        assert "parallel_run_plan_" not in json.dumps(output)


# runs as they lie on the disk


def test_the_plan_of_a_run_shows_its_current_limits(unfinished, capsys):
    """Including those of a resume or of a control command."""
    config = {"error_threshold": 4, "allowed_failed_percent": None, "run_max_try": 3, "run_invocation_timeout": 60.0}
    more = {"allowed_failed_count": None, "node_count": 1, "process_count_per_node": 2, "compute_target": "local"}
    write_json(unfinished.description, {**unfinished.metadata(), "config": {**config, **more}})
    assert planned(capsys, unfinished.path)["limits"] == {"failed_items": 4, "failed_mini_batches": None}
    with Ledger(unfinished.ledger) as ledger:
        drive = {"began": 1.0, "host": "h", "versions": {}, "config": {"error_threshold": 6, "allowed_failed_count": 2}}
        ledger.record(**{"drive.1": json.dumps(drive)})
        assert planned(capsys, unfinished.path)["limits"] == {"failed_items": 6, "failed_mini_batches": 2}
        ledger.record(adjustments=json.dumps({"error_threshold": {"now": -1, "instead_of": [6, 4]}}))
    assert planned(capsys, unfinished.path)["limits"] == {"failed_items": None, "failed_mini_batches": 2}


@pytest.fixture
def unfinished(tmp_path, files):
    """An interrupted run: three of ten mini-batches done, one of them failed, one of them with too few rows."""
    directory = RunDirectory(tmp_path / "out" / RUNS_FOLDER / "test-abc-20250101T000000-1")
    directory.make()
    dataset = FileDataset.from_files(files).as_named_input("files")
    write_plan([dataset], 10, directory.plan)
    write_json(directory.description, {"created": "2025-01-01T00:00:00Z", "identity": {}})
    with Ledger.create(directory.ledger, [10] * 10) as ledger:
        good = Receipt(0, 1, "succeeded", 10, 10, 0, 10, "p", 0, 0, 20, 1, started=1000.0, seconds=1.0, node="node-0", pid=1)
        error = {"error_type": "ValueError", "error": "bad\x1b[2J", "fingerprint": "f"}
        bad = Receipt.of_failure(1, 1, "raised", items=10, started=1001.0, seconds=1.0, node="node-1", **error)
        short = good._replace(mini_batch=2, succeeded=8, failed=2, rows=8, started=1002.0)
        ledger.commit([(good, "succeeded"), (bad, "failed"), (short, "succeeded")])
        ledger.record(status="running", drives="1")
    return directory


def test_failed_lists_items_of_an_unfinished_run(unfinished, files, capsys):
    """One path per line; the failed items of a mini-batch with too few rows are unknown."""
    assert main(["failed", str(unfinished.path), "--items"]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines() == [str(files / f"f{number:03d}.txt") for number in range(10, 20)]
    assert "2 more items failed in mini-batches whose run() returned fewer rows" in output.err
    assert main(["failed", str(unfinished.path), "--items", "-0"]) == 0
    assert capsys.readouterr().out.count("\0") == 10
    assert main(["failed", str(unfinished.path), "--items", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["outcome"] for entry in found] == ["raised"] * 10 + ["too_few_rows"]
    assert main(["failed", str(unfinished.path), "--mini-batches"]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["1", "2"]
    assert main(["failed", str(unfinished.path)]) == 0
    assert "ValueError: bad\\x1b[2J" in capsys.readouterr().out


def test_failed_names_the_failing_file_of_a_cause(unfinished, files, capsys):
    """Once bisection has found it; before that, the files of the first mini-batch. Attempts at pieces count too."""
    assert main(["failed", str(unfinished.path)]) == 0
    assert f"  in that mini-batch: {files / 'f010.txt'} and 9 more" in capsys.readouterr().out
    error = {"error_type": "ValueError", "error": "bad", "fingerprint": "f"}
    bad = Receipt.of_failure(1, 1, "raised", items=1, started=1003.0, seconds=1.0, node="node-1", **error)
    with Ledger(unfinished.ledger) as ledger:
        ledger.commit_piece(bad, (5, 10), 0, "isolating")
        ledger.commit_piece(bad, (7, 8), 1, "failed")
    assert main(["failed", str(unfinished.path)]) == 0
    words = capsys.readouterr().out
    assert "3 failed attempts of 1 mini-batch" in words
    assert f"  failed permanently: 1 item\n  first failing item: {files / 'f017.txt'}\n" in words
    assert main(["failed", str(unfinished.path), "--mini-batches"]) == 0
    assert "1\t3 attempts\t1 of 1 item (item 7)\t" in capsys.readouterr().out
    assert main(["show", str(unfinished.path), "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["nodes"][1] == {"node": "node-1", "tries": 3, "succeeded": 0, "last": 1004.0}
    assert output["causes"][0]["guilty"] == [1, 7, 8]


def test_failed_reads_the_spool_of_an_unfinished_plan(unfinished, capsys):
    """The plan and its spool name the same items."""
    from prefect_parallel_run.planning.plan import Group, Plan, Spool

    batches = list(Plan(unfinished.plan).mini_batches(0, 5))
    spool = Spool(unfinished.spool)
    for some in (batches[:2], batches[2:]):
        spool.append(Group(*map(list, list(zip(*some, strict=True))[1:])))
    spool.close()
    assert main(["failed", str(unfinished.path), "--items", "--json"]) == 0
    expected = capsys.readouterr().out
    unfinished.plan.unlink()
    assert main(["failed", str(unfinished.path), "--items", "--json"]) == 0
    assert capsys.readouterr().out == expected
    unfinished.spool.write_bytes(b"")
    assert main(["failed", str(unfinished.path), "--items"]) == 1
    assert "lacks mini-batch 1 of the ledger" in capsys.readouterr().err


def test_a_newline_in_a_name_requires_null(tmp_path, capsys):
    """One path must not be read as two."""
    name = tmp_path / "files" / "line\nend"
    name.parent.mkdir()
    name.write_text("x")
    directory = RunDirectory(tmp_path / "run")
    directory.make()
    write_json(directory.description, {"identity": {}})
    work = {"input": "files", "kind": "files", "root": f"{name.parent}/", "names": [name.name], "sizes": [1], "versions": [1]}
    with PlanWriter(directory.plan) as writer:
        writer.add("files", PlannedBatch(1, 1, json.dumps(work)))
        writer.finish("file", "")
    with Ledger.create(directory.ledger, [1]) as ledger:
        ledger.commit([(Receipt.of_failure(0, 1, "raised", items=1, started=1.0, seconds=1.0), "failed")])
    assert main(["failed", str(directory.path), "--items"]) == 2
    assert "contains a newline; use --null" in capsys.readouterr().err
    assert main(["failed", str(directory.path), "--items", "--null"]) == 0
    assert paths_in(capsys.readouterr().out.encode()) == [str(name)]


def test_show_prints_the_ledger(unfinished, capsys):
    """Without a process that executes the run, it is interrupted; show suggests how to resume it."""
    assert main(["show", str(unfinished.path)]) == 0
    words = capsys.readouterr().out
    for expected in (
        "test-abc-20250101T000000-1: interrupted\n",
        "mini-batches: total 10, succeeded 2, failed 1, not reached 7",
        "items: total 100, succeeded 18, failed 12, not reached 70",
        "1 failed attempt of 1 mini-batch: ValueError: bad\\x1b[2J (raised, first in mini-batch 1)",
        "succeeded on node-0 2, node-1 0",
        f"next: prefect-parallel-run resume {unfinished.path}",
    ):
        assert expected in words
    assert "\x1b" not in words
    assert main(["show", str(unfinished.path), "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert (output["status"], output["driver"], output["rate"], output["waiting"]) == ("interrupted", None, None, 0)
    assert output["nodes"][1] == {"node": "node-1", "tries": 1, "succeeded": 0, "last": 1002.0}


def test_an_output_folder_stands_for_its_newest_run(unfinished, capsys):
    """The command prints which run that is."""
    output = unfinished.path.parent.parent
    for path in (output, output / RUNS_FOLDER):
        assert main(["show", str(path)]) == 0
        printed = capsys.readouterr()
        assert "interrupted" in printed.out
        assert f"the newest run of {path}: {unfinished.path}" in printed.err
    assert main(["list", str(output)]) == 0
    line = capsys.readouterr().out
    assert line.split() == ["interrupted", "2025-01-01T00:00:00Z", "3", "of", "10", "12", "items", "failed", unfinished.run_id]
    unfinished.ledger.write_bytes(b"nothing of the kind")
    assert main(["list", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == "unreadable"


@pytest.mark.parametrize("command", ["list", "failed", "show"])
def test_piped_output_is_plain(unfinished, command, capsys, monkeypatch):
    """No colours, no frames, one row per run: it is read by grep and by scripts."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    assert main([command, str(unfinished.path.parent.parent)]) == 0
    words = capsys.readouterr().out
    assert "\x1b" not in words.replace("\\x1b", "")
    assert not set(words) & set("━─│┃")
    assert command != "list" or len(words.splitlines()) == 1


def test_a_ledger_of_a_newer_version_is_refused(unfinished, capsys):
    """Its contents could be misread."""
    with sqlite3.connect(unfinished.ledger) as connection:
        connection.execute("PRAGMA user_version = 1000")
    assert main(["show", str(unfinished.path)]) == 1
    assert "was written by a newer version of prefect_parallel_run" in capsys.readouterr().err


def test_show_names_the_process_that_executes_a_run(unfinished, capsys):
    """Reading the status neither takes the lock nor delays another process that wants it."""
    assert unfinished.owner() is None
    with unfinished.lock():
        assert main(["show", str(unfinished.path), "--json"]) == 0
        output = json.loads(capsys.readouterr().out)
        assert (output["status"], output["driver"]["pid"]) == ("running", os.getpid())
        assert main(["show", str(unfinished.path)]) == 0  # not at a terminal: it does not follow
        assert f"running (process {os.getpid()} on " in capsys.readouterr().out


def test_a_look_at_the_lock_does_not_keep_a_driver_away(unfinished):
    """One that comes in that very instant waits for it."""
    descriptor = os.open(unfinished.path / "lock", os.O_RDONLY | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    threading.Timer(0.03, os.close, [descriptor]).start()
    unfinished.lock().release()
