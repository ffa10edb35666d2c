"""The command line on plain values: how options are read, how it ends, what it says."""

import argparse
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
from prefect_parallel_run.cli._exit_codes import MEANING, BrokenOutputError, Exit, exit_of
from prefect_parallel_run.cli._output import emit_array
from prefect_parallel_run.cli._terminal import next_steps
from prefect_parallel_run.cli.step_options import format_options, named, paths_in, read_step_options, split_arguments, step_name
from prefect_parallel_run.errors import (
    ComputeTargetError,
    EntryScriptError,
    InputChangedError,
    LimitExceededError,
    RowsDifferError,
    RunLockedError,
)
from prefect_parallel_run.models import PlannedBatch, Receipt
from prefect_parallel_run.planning.writing import PlanWriter, write_plan
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import FOLDER, RunDirectory, write_json


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


def given(command, *words, **known):
    """The options of a command as the parser makes them."""
    from prefect_parallel_run.cli.app import parser

    own, behind = split_arguments([command, *map(str, words)])
    made = parser().parse_args(own)
    made.arguments = behind
    return argparse.Namespace(**{**vars(made), **known})


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
        (AttributeError("a defect of ours"), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_an_error_ends_with(error, code):
    """One table says it; a defect of ours shows its traceback."""
    assert exit_of(error) == code
    assert code is None or MEANING[Exit(code)]


def test_help_tells_the_exit_codes_and_all_commands(capsys):
    """So that a script can be written without reading ours."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    words = capsys.readouterr().out
    assert all(f"{code:>5}  {meaning}"[:60] in words for code, meaning in MEANING.items())
    assert all(
        f"    {name} " in words for name in ("run", "plan", "show", "list", "failed", "resume", "replay", "verify", "report")
    )


def test_options_become_a_step(config, files, tmp_path):
    """Names, several paths, lists, side inputs, fields that are set, and what stands behind the two dashes."""
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    names = [hostile / "a[1].txt", hostile / "line\nend"]
    for path in names:
        path.write_text("x")
    lists = tmp_path / "list"
    lists.write_bytes(b"".join(bytes(path) + b"\0" for path in names))
    options = read_step_options(
        given(
            "run", config, "--input", f"pictures={files}/f00*.txt", files / "f010.txt", "--input", files / "f011.txt",
            "--input-list", lists, "--side-input", f"model={config}", "--output", tmp_path / "out", "--no-reuse",
            "--set", "node_count=3", "--set", "mini_batch_size=10MB", "--set", "description='no'",
            "--", "--model", "m", "--input",
        ),
        is_to_run=True,
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


def test_options_of_formats():
    """Only those of the format; a tab as shells pass it on."""
    assert format_options("delimited", {"delimiter": "\\t", "header": False, "quote": None}) == {
        "delimiter": "\t",
        "header": False,
    }
    assert format_options("json-lines", {"compression": "none"}) == {"compression": None}
    assert format_options("delimited", {"column_types": ["id=string", "a=b=Int64"], "na_values": ["n.v.", "-"]}) == {
        "column_types": {"id": "string", "a=b": "Int64"},
        "na_values": ["n.v.", "-"],
    }
    assert format_options("delimited", {"keep_default_na": False}) == {"keep_default_na": False}
    with pytest.raises(ValueError, match="--no-default-na is for --format delimited; the format is orc"):
        format_options("orc", {"keep_default_na": False})
    with pytest.raises(ValueError, match="--column-type id: accepted: NAME=TYPE"):
        format_options("delimited", {"column_types": ["id"]})
    with pytest.raises(ValueError, match="--na-value is for --format delimited; the format is files"):
        format_options("files", {"na_values": ["-"]})
    with pytest.raises(ValueError, match="--no-header is for --format delimited; the format is parquet"):
        format_options("parquet", {"header": False})


def test_a_path_with_an_equals_sign_is_a_path_where_it_exists(tmp_path, monkeypatch):
    """Hive folders look like NAME=PATH."""
    monkeypatch.chdir(tmp_path)
    Path("store=1").mkdir()
    assert named("store=1") == (None, "store=1")
    assert named("store=2") == ("store", "2")


def test_names_and_lists():
    """What a person would expect."""
    assert step_name("/configs/über-score_v2.yaml") == "ber-score_v2"
    assert step_name("….yml") == "parallel-run"
    assert paths_in(b"\n\na\r\n") == ["a\r"], "a name may end in anything where not all lines end in CR LF"
    assert paths_in(b"\xef\xbb\xbfa\r\n\r\nb c\r\n") == ["a", "b c"], "as Windows writes it"
    assert paths_in(b"\xff.txt\n") == ["\udcff.txt"]
    assert split_arguments(["show", "x"]) == (["show", "x"], [])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "nothing.yml", "--input", "x", "--output", "o"], "nothing.yml: no such configuration file"),
        (["run", "CONFIG", "--output", "o"], "no input was given; pass --input or --input-list"),
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
            "--set node_count: accepted: FIELD=VALUE",
        ),
        (
            ["run", "CONFIG", "--input", "FILES", "--output", "o", "--", "model"],
            "arguments: expected an option that starts with '-' as the first, got 'model'",
        ),
        (
            ["run", "CONFIG", "--input", "FILES", "--output", "o", "--set", "compute_target=cpu-cluster"],
            "compute_target is 'cpu-cluster', which names no cluster here; pass --set compute_target=local",
        ),
        (
            ["plan", "CONFIG", "--input", "FILES", "--delimiter", ";"],
            "--delimiter is for --format delimited; the format is files",
        ),
        (
            ["plan", "CONFIG", "--input", "FILES", "--format", "delimited", "--delimiter", "ab"],
            "--delimiter: delimiter: expected one ASCII character",
        ),
        (
            ["plan", "CONFIG", "--input", "FILES", "--format", "delimited", "--column-type", "id=text", "--na-value", "-"],
            "--column-type: column_types['id']: expected one of string, ",
        ),
        (["failed", "RUN", "--null"], "--null is for --items"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_wrong_use_is_one_line(config, files, words, said, capsys):
    """On stderr, with the option or the field in it; nothing on stdout."""
    places = {"CONFIG": str(config), "FILES": str(files)}
    assert main([places.get(word, word) for word in words]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err
    assert len(told.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "CONFIG", "--input", "missing", "--output", "o"], "missing: does not exist"),
        (["run", "CONFIG", "--input", "nostore://a/b", "--output", "o"], "Protocol not known: nostore"),
        (["plan", "CONFIG", "--input-list", "missing"], "missing: No such file or directory"),
        (["show", "missing"], "run missing: does not exist"),
        (["control", "missing", "pause"], "run missing: does not exist"),
        (["show", "FILES"], "is not a run directory: it has no run.json"),
        (["list", "FILES"], "has no runs in it"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_what_is_not_there_is_one_line_and_json_where_that_is_wanted(config, files, words, said, capsys, monkeypatch):
    """Before anything is started for it."""
    monkeypatch.chdir(config.parent)
    places = {"CONFIG": str(config), "FILES": str(files)}
    assert main([*(places.get(word, word) for word in words), "--json"]) == 1
    told = capsys.readouterr()
    assert said in told.err
    assert len(told.err.splitlines()) == 1
    assert json.loads(told.out)["error"]["message"] == told.err.strip()
    assert not Path("o").exists()


def test_what_is_left_out_of_a_file_of_azures_is_a_line(config, files, capsys):
    """On stderr, without the place in our code where it was noticed."""
    config.write_text(config.read_text() + "  environment_name: prs\n")
    options = read_step_options(given("plan", config, "--input", files), is_to_run=False)
    assert options.config.environment is None
    assert capsys.readouterr().err == f"{config}: of Azure's environment these are left out: environment_name prs\n"


def test_arguments_for_a_script_that_nothing_runs(capsys):
    """Only run and plan take them."""
    with pytest.raises(SystemExit) as ended:
        main(["show", "x", "--", "--model", "m"])
    assert ended.value.code == 2
    assert "for the scripts of run and plan" in capsys.readouterr().err


def test_what_can_be_done_next():
    """A limit can be raised; what was cancelled, or lost its cluster, can be gone on with; a place may need quotes."""
    limit = LimitExceededError("allowed_failed_count", 1, 2)
    assert [words for words, _ in next_steps(limit, "/my runs/a")] == [
        "prefect-parallel-run failed '/my runs/a'",
        "prefect-parallel-run resume '/my runs/a' --allowed-failed-count N",
        "prefect-parallel-run resume '/my runs/a' --retry-failed",
    ]
    for error in (KeyboardInterrupt(), ComputeTargetError("local", "gone"), OSError()):
        assert [words for words, _ in next_steps(error, "/a")] == ["prefect-parallel-run resume /a"]
    assert "--accept-changes" in next_steps(InputChangedError("/a", ("x",)), "/a")[0][0]
    assert [words for words, _ in next_steps(RowsDifferError("/out", "differ", 7), "/a")] == [
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


def test_plan_tells_figures_and_limits_and_leaves_nothing(config, files, tmp_path, capsys, monkeypatch):
    """Neither in the output nor in the temporary folder."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = sorted(tmp_path.rglob("*"))
    words = ("--set", "allowed_failed_percent=25", "--set", "node_count=2", "--json", "--", "--at", "{output}")
    assert main(["plan", str(config), "--input", str(files), "--output", str(tmp_path / "out"), *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(tmp_path.rglob("*")) == before
    assert (told["mini_batches"], told["items"], told["bytes"]) == (10, 100, 290)
    assert told["items_per_mini_batch"] == {"least": 10, "median": 10, "most": 10}
    assert told["bytes_per_mini_batch"] == {"least": 20, "median": 30.0, "most": 30}
    assert [entry["mini_batch"] for entry in told["first"] + told["last"]] == [0, 1, 2, 7, 8, 9]
    assert told["last"][-1]["paths"][-1] == str(files / "f099.txt")
    assert (told["nodes"], told["processes"], told["tries_at_most"]) == (2, 8, 20)
    assert told["limits"] == {"failed_items": 5, "failed_mini_batches": 2}
    assert main(["plan", str(config), "--input", str(files)]) == 0
    words = capsys.readouterr().out
    for expected in (
        "10 mini-batches, 100 items, 290 bytes",
        "… 4 more …",
        "processes on each: 4, 4 in all",
        "forgives 5 failed",
    ):
        assert expected in words


@pytest.mark.parametrize("kind", ["parquet", "delimited", "json-lines", "arrow", "orc"])
def test_plan_tells_rows_of_tables(config, tmp_path, kind, capsys):
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
    told = planned(capsys, config, "--input", f"rows={path}", "--format", kind, "--set", "mini_batch_size=4KB", *more)
    assert told["items"] == 1000
    assert told["first"][0]["input"] == "rows"
    assert told["first"][0]["path"] == str(path)
    assert main(["plan", str(config), "--input", str(path), "--format", kind, *more]) == 0
    assert f"0: {path}, " in capsys.readouterr().out


def test_plan_tells_what_is_odd(config, tmp_path, capsys):
    """Before anything has run for it."""
    (tmp_path / "t.csv").write_text("a;b\n1;2\n")
    told = planned(capsys, config, "--input", str(tmp_path / "t.csv"), "--format", "delimited")
    assert told["notes"] == [f"{tmp_path}/t.csv has one column, 'a;b' (delimiter ','); is the delimiter ';'?"]
    assert main(["plan", str(config), "--input", str(tmp_path / "t.csv"), "--format", "delimited"]) == 0
    assert f"  note: {told['notes'][0]}\n" in capsys.readouterr().out


def test_plan_with_partition_keys(config, tmp_path, capsys):
    """In hive folders and in columns; what would be written anew is not written."""
    frame = pd.DataFrame({"store": [1, 2, 1, 2], "x": [1.0, 2.0, 3.0, 4.0]})
    frame.to_parquet(tmp_path / "hive", partition_cols=["store"])
    frame.to_parquet(tmp_path / "flat.parquet")
    for name in ("hive", "flat.parquet"):
        told = planned(capsys, config, "--input", tmp_path / name, "--format", "parquet", "--set", "partition_keys=[store]")
        assert [entry["partition_key_value"] for entry in told["first"]] == [{"store": 1}, {"store": 2}]
        assert "parallel_run_plan_" not in json.dumps(told)


# runs as they lie on the disk


def test_the_plan_of_a_run_forgives_what_is_in_force(unfinished, capsys):
    """As it was resumed with, or changed while it went on."""
    config = {"error_threshold": 4, "allowed_failed_percent": None, "run_max_try": 3, "run_invocation_timeout": 60.0}
    more = {"allowed_failed_count": None, "node_count": 1, "process_count_per_node": 2, "compute_target": "local"}
    write_json(unfinished.description, {**unfinished.facts(), "config": {**config, **more}})
    assert planned(capsys, unfinished.path)["limits"] == {"failed_items": 4, "failed_mini_batches": None}
    with Ledger(unfinished.ledger) as ledger:
        drive = {"began": 1.0, "host": "h", "versions": {}, "config": {"error_threshold": 6, "allowed_failed_count": 2}}
        ledger.note(**{"drive.1": json.dumps(drive)})
        assert planned(capsys, unfinished.path)["limits"] == {"failed_items": 6, "failed_mini_batches": 2}
        ledger.note(adjustments=json.dumps({"error_threshold": {"now": -1, "instead_of": [6, 4]}}))
    assert planned(capsys, unfinished.path)["limits"] == {"failed_items": None, "failed_mini_batches": 2}


@pytest.fixture
def unfinished(tmp_path, files):
    """A run directory that nobody drives: three of ten mini-batches done, one of them failed, one of them with too few rows."""
    directory = RunDirectory(tmp_path / "out" / FOLDER / "test-abc-20250101T000000-1")
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
        ledger.note(status="running", drives="1")
    return directory


def test_failed_names_items_of_a_run_that_is_not_finished(unfinished, files, capsys):
    """One path a line; which of a mini-batch with too few rows failed, nobody knows."""
    assert main(["failed", str(unfinished.path), "--items"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [str(files / f"f{number:03d}.txt") for number in range(10, 20)]
    assert "2 more items failed in mini-batches whose run() returned fewer rows" in told.err
    assert main(["failed", str(unfinished.path), "--items", "-0"]) == 0
    assert capsys.readouterr().out.count("\0") == 10
    assert main(["failed", str(unfinished.path), "--items", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["outcome"] for entry in found] == ["raised"] * 10 + ["too_few_rows"]
    assert main(["failed", str(unfinished.path), "--mini-batches"]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["1", "2"]
    assert main(["failed", str(unfinished.path)]) == 0
    assert "ValueError: bad\\x1b[2J" in capsys.readouterr().out


def test_failed_names_the_guilty_file_of_a_cause(unfinished, files, capsys):
    """Once it is known; before that, what was in the first mini-batch. Every try counts, also those of items apart."""
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
    assert f"  failed for good: 1 item\n  the first that was found guilty: {files / 'f017.txt'}\n" in words
    assert main(["failed", str(unfinished.path), "--mini-batches"]) == 0
    assert "1\t3 tries\t1 of 1 item (item 7 of it)\t" in capsys.readouterr().out
    assert main(["show", str(unfinished.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["nodes"][1] == {"node": "node-1", "tries": 3, "succeeded": 0, "last": 1004.0}
    assert told["causes"][0]["guilty"] == [1, 7, 8]


def test_failed_reads_the_spool_of_a_plan_that_was_never_finished(unfinished, capsys):
    """The same items."""
    from prefect_parallel_run.planning.plan import Group, Plan
    from prefect_parallel_run.planning.spool import Spool

    batches = list(Plan.open(unfinished.plan).mini_batches(0, 5))
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
    assert "has no mini-batch 1, which the ledger has" in capsys.readouterr().err


def test_a_line_end_in_a_name_wants_null(tmp_path, capsys):
    """Rather than two paths that are none."""
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
    assert "has a line end in its name; use --null" in capsys.readouterr().err
    assert main(["failed", str(directory.path), "--items", "--null"]) == 0
    assert paths_in(capsys.readouterr().out.encode()) == [str(name)]


def test_show_tells_what_the_ledger_has(unfinished, capsys):
    """Nobody drives it: interrupted; and what to do then."""
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
    told = json.loads(capsys.readouterr().out)
    assert (told["status"], told["driver"], told["rate"], told["waiting"]) == ("interrupted", None, None, 0)
    assert told["nodes"][1] == {"node": "node-1", "tries": 1, "succeeded": 0, "last": 1002.0}


def test_an_output_folder_stands_for_its_newest_run(unfinished, capsys):
    """And it says which."""
    output = unfinished.path.parent.parent
    for place in (output, output / FOLDER):
        assert main(["show", str(place)]) == 0
        told = capsys.readouterr()
        assert "interrupted" in told.out
        assert f"the newest run of {place}: {unfinished.path}" in told.err
    assert main(["list", str(output)]) == 0
    line = capsys.readouterr().out
    assert line.split() == ["interrupted", "2025-01-01T00:00:00Z", "3", "of", "10", "12", "items", "failed", unfinished.run_id]
    unfinished.ledger.write_bytes(b"nothing of the kind")
    assert main(["list", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == "unreadable"


def test_a_ledger_of_a_newer_version(unfinished, capsys):
    """Is not guessed at."""
    with sqlite3.connect(unfinished.ledger) as connection:
        connection.execute("PRAGMA user_version = 1000")
    assert main(["show", str(unfinished.path)]) == 1
    assert "was written by a newer version of prefect_parallel_run" in capsys.readouterr().err


def test_show_names_who_drives_a_run(unfinished, capsys):
    """And looking takes nothing away from who drives it, nor from who is about to."""
    assert unfinished.driver() is None
    with unfinished.lock():
        assert main(["show", str(unfinished.path), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["status"], told["driver"]["pid"]) == ("running", os.getpid())
        assert main(["show", str(unfinished.path)]) == 0  # not at a terminal: it does not follow
        assert f"running (process {os.getpid()} on " in capsys.readouterr().out


def test_a_look_at_the_lock_does_not_keep_a_driver_away(unfinished):
    """One that comes in that very instant waits for it."""
    descriptor = os.open(unfinished.path / "lock", os.O_RDONLY | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    threading.Timer(0.03, os.close, [descriptor]).start()
    unfinished.lock().release()
