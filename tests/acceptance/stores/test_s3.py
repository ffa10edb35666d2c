"""Inputs, outputs and run directories in a real S3 store, and its faults."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from prefect_parallel_run import FileDataset, InputError, LimitExceededError, OutputError, TabularDataset
from prefect_parallel_run.cli import main
from prefect_parallel_run.storage.listing import list_files

from .conftest import BUCKET, first

IN, OUT = f"s3://{BUCKET}/in", f"s3://{BUCKET}/out"
EXPECTED = [f"f{number:03d}.txt {number}" for number in range(10)]


def fill(store, count=10):
    for number in range(count):
        store.pipe_file(f"{BUCKET}/in/f{number:03d}.txt", str(number).encode())


def reading(workshop, *arguments, **fields):
    given = {"inputs": FileDataset.from_files(IN), "mini_batch_size": 2, "error_threshold": 0, "process_count_per_node": 1}
    return workshop.step("reads.py", "--log", str(workshop.log), *arguments, **{**given, **fields})


def lines(result):
    return Path(result.output_file).read_text().splitlines()


def paths(workshop):
    return [line.split()[1] for line in workshop.log.read_text().splitlines() if line.startswith("path ")]


def test_objects_are_files_to_the_script_and_are_removed_afterwards(workshop, s3):
    """In the order of their names, hidden ones and other runs' left out, whatever the names are."""
    fill(s3)
    for name in ("sub/x é#?&.txt", ".hidden/y", "../z", "_parallel_run/r/w", "a//b.txt"):
        s3.pipe_file(f"{BUCKET}/in/{name}", b"more")
    result = reading(workshop)()
    assert lines(result) == ["b.txt more", *EXPECTED, "x é#?&.txt more"]
    assert len(set(paths(workshop))) == 12
    assert not any(Path(path).exists() for path in paths(workshop))


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("in/f00[2-4].txt", [2, 3, 4]), ("in/*5.txt", [5]), ("**/f007.txt", [7]), ("in/f008.txt", [8]), ("i?/f009.txt", [9])],
)
def test_patterns(workshop, s3, pattern, found):
    """And single objects."""
    fill(s3)
    s3.pipe_file(f"{BUCKET}/in/deeper/f005.txt", b"5")
    result = reading(workshop, inputs=f"s3://{BUCKET}/{pattern}")()
    assert lines(result) == [EXPECTED[number] for number in found]


def test_the_next_mini_batch_is_fetched_while_the_current_one_runs(workshop, s3):
    """The script of the first one waits for the request."""
    fill(s3)
    s3.proxy.log = workshop.folder / "requests.txt"
    s3.proxy.log.touch()
    result = reading(workshop, "--watch", str(s3.proxy.log), run_max_try=1)()
    assert lines(result) == EXPECTED


def test_tables_in_a_store_are_what_they_are_on_disk(workshop, s3):
    """Row groups and records are read by ranges."""
    frame = pd.DataFrame({"a": range(5000), "b": [f"text {number}" for number in range(5000)]})
    frame.to_parquet(workshop.folder / "t.parquet", row_group_size=1000)
    frame.to_csv(workshop.folder / "t.csv", index=False)
    for name in ("t.parquet", "t.csv"):
        s3.put_file(str(workshop.folder / name), f"{BUCKET}/tables/{name}")
    results = []
    for place in (str(workshop.folder), f"s3://{BUCKET}/tables"):
        for make, name in (
            (TabularDataset.from_parquet_files, "t.parquet"),
            (TabularDataset.from_delimited_files, "t.csv"),
        ):
            output = workshop.folder / f"out{len(results)}"
            inputs = make([f"{place}/{name}"])
            result = workshop.step("echo.py", inputs=inputs, output=output, mini_batch_size="10KB", error_threshold=0)()
            assert result.items_succeeded == 5000
            assert result.mini_batches_total > 2
            results.append(Path(result.output_file).read_bytes())
    assert len(set(results)) == 1


def test_an_output_in_a_store(workshop, s3, capsys, tmp_path):
    """It appears whole, with its run directory; nothing stays on this machine; it can be verified and reused."""
    result = workshop.step(output=OUT)()
    assert result.output_file == f"{OUT}/parallel_run_step.txt"
    assert s3.cat_file(result.output_file).decode().split() == [f"f{number:03d}.txt" for number in range(100)]
    assert result.run_directory == f"{OUT}/_parallel_run/{result.run_id}"
    receipt = json.loads(s3.cat_file(result.receipt))
    assert receipt["items"] == {"total": 100, "succeeded": 100, "failed": 0, "not_reached": 0}
    names = {name.rpartition("/")[2] for name in s3.ls(result.run_directory)}
    assert names >= {"plan.parquet", "ledger.sqlite", "parts", "receipt.json", "report.html", "run.json", "failed_items.jsonl"}
    logs = {name.rpartition("/")[2] for name in s3.ls(f"{result.run_directory}/logs")}
    assert logs >= {"processed_mini-batches.csv", "progress.csv", "node-0.processes.jsonl", "node-0.resources.csv"}
    assert "status  succeeded\n" in s3.cat_file(f"{result.run_directory}/logs/job_progress_overview.txt").decode()
    assert main(["verify", result.run_directory]) == 0
    assert "agree" in capsys.readouterr().out
    assert main(["show", "--json", result.run_directory]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "succeeded"
    assert main(["list", "--json", OUT]) == 0
    assert [(run["run_directory"], run["status"]) for run in json.loads(capsys.readouterr().out)] == [
        (result.run_directory, "succeeded")
    ]
    assert main(["show", "--json", OUT]) == 0  # the newest of the output
    assert json.loads(capsys.readouterr().out)["run"] == result.run_id
    again = workshop.step(output=OUT)()
    assert (again.reused, again.run_id) == (True, result.run_id)
    assert len(workshop.invocations()) == 10
    s3.pipe_file(result.output_file, b"altered")
    assert main(["verify", result.run_directory]) == 1
    assert not workshop.step(output=OUT)().reused
    assert len(workshop.invocations()) == 20


def test_a_result_of_several_parts_in_a_store(workshop, s3, capsys):
    """The manifest comes last, and readers go by it; a second result replaces the first one whole, and so does a file."""
    s3.proxy.log = workshop.folder / "requests.txt"

    def step(**fields):
        given = {"append_row_file_name": "names.jsonl", "append_row_max_file_size": 300, **fields}
        return workshop.step(output=OUT, allow_reuse=fields.pop("allow_reuse", True), **given)

    def names():
        return sorted(name.rpartition("/")[2] for name in s3.ls(f"{OUT}/names.jsonl", refresh=True))

    result = step()()
    parts = json.loads(s3.cat_file(result.receipt))["parts"]
    assert names() == ["_parallel_run_manifest.json", *(part["name"] for part in parts)]
    assert [part["name"] for part in parts[:2]] == ["part-00000.jsonl", "part-00001.jsonl"]
    writes = [line for line in s3.proxy.log.read_text().splitlines() if line.startswith("PUT") and "/names.jsonl/" in line]
    first, *between, last = (line.rpartition("/")[2] for line in writes)
    assert first == last == names()[0]
    assert sorted(between) == [part["name"] for part in parts], "nodes upload the parts in any order, each once"
    assert main(["verify", result.run_directory]) == 0
    second = workshop.step("echo.py", name="second", inputs=result, output=workshop.folder / "second", mini_batch_size="1KB")()
    assert second.items_succeeded == 100
    assert step()().reused
    s3.pipe_file(f"{OUT}/names.jsonl/{parts[1]['name']}", b"altered")
    capsys.readouterr()
    assert main(["verify", result.run_directory]) == 1
    assert f"{parts[1]['name']} was changed after it was published" in capsys.readouterr().out
    again = step()()
    assert not again.reused
    assert names()[1:] == [part["name"] for part in json.loads(s3.cat_file(again.receipt))["parts"]]
    assert not {*names()[1:]} & {part["name"] for part in parts}, "readers of the earlier result were not disturbed"
    single = step(append_row_max_file_size=None)()
    assert s3.ls(f"{OUT}/names.jsonl", refresh=True)[0] == f"{BUCKET}/out/names.jsonl"
    assert len(s3.cat_file(single.output_file).splitlines()) == 100
    assert not [name for name in s3.find(OUT, refresh=True) if "/names.jsonl/" in name]
    step(append_row_max_file_size=1 << 20)()
    assert names() == ["_parallel_run_manifest.json", "part-00000.jsonl"]


def test_a_result_may_have_the_name_of_a_folder_of_the_run(workshop, s3):
    """The local copy of a result must not replace what the run directory has under that name."""
    result = workshop.step(output=OUT, append_row_file_name="parts", append_row_max_file_size=300)()
    assert main(["verify", result.run_directory]) == 0
    s3.pipe_file(f"{OUT}/parts/notes.md", b"mine")
    with pytest.raises(OutputError, match=r"is a folder with notes.md, which is not part of a result"):
        workshop.step(output=OUT, append_row_file_name="parts", append_row_max_file_size=400)()
    assert s3.cat_file(f"{OUT}/parts/notes.md") == b"mine"


@pytest.mark.parametrize("lost", ["part-00002", "manifest"])
def test_a_failed_upload_leaves_the_earlier_parts_current(workshop, s3, lost):
    """Readers go by the manifest of before; the next attempt cleans up."""
    fields = {"append_row_file_name": "names.jsonl", "append_row_max_file_size": 300, "output": OUT, "allow_reuse": False}
    first = workshop.step(**fields)()
    parts = json.loads(s3.cat_file(first.receipt))["parts"]
    s3.proxy.fault = lambda method, path: "500" if method == "PUT" and "/names.jsonl/" in path and lost in path else None
    with pytest.raises(OutputError, match=r"names.jsonl: cannot be written"):
        workshop.step(**fields)()
    s3.proxy.reset()
    assert [file.path.rpartition("/")[2] for file in list_files([f"{OUT}/names.jsonl"])] == [part["name"] for part in parts]
    last = workshop.step(**fields)()
    names = {name.rpartition("/")[2] for name in s3.ls(f"{OUT}/names.jsonl", refresh=True)}
    assert names == {"_parallel_run_manifest.json", *(part["name"] for part in json.loads(s3.cat_file(last.receipt))["parts"])}


def test_replay_fetches_what_the_mini_batch_needs(workshop, s3, capsys):
    """In the foreground, from the URL of the run directory."""
    fill(s3)
    result = reading(workshop, output=OUT)()
    assert main(["replay", result.run_directory, "--mini-batch", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == EXPECTED[4:6]


def test_a_trial_fetches_its_objects_and_stores_nothing(workshop, s3):
    """In the process of a node; the output is not touched."""
    fill(s3)
    trial = reading(workshop, output=OUT).try_out(2, sample=True)
    assert trial.rows == [*EXPECTED[2:4], *EXPECTED[6:8]]
    assert not any(Path(path).exists() for path in paths(workshop))
    assert not s3.exists(OUT)


def test_steps_compose_in_a_store(workshop, s3):
    """A result in a store is another step's input."""
    numbers = workshop.step("counts.py", output=OUT, append_row_file_name="names.jsonl")()
    result = workshop.step("echo.py", inputs=numbers, output=f"s3://{BUCKET}/second", name="second", mini_batch_size="1KB")()
    assert result.items_succeeded == 100
    assert s3.cat_file(result.output_file).decode().split() == [f"f{number:03d}.txt" for number in range(100)]


def test_side_inputs_and_placeholders_are_urls(workshop, s3):
    """The script opens them itself, with what its own libraries find in the environment."""
    fill(s3)
    s3.pipe_file(f"{BUCKET}/model.bin", b"1")
    arguments = ["--model", "{side_inputs.model}", "--in={inputs.input_0}", "--out={output}/x"]
    fields = {"side_inputs": {"model": f"s3://{BUCKET}/model.bin"}, "inputs": FileDataset.from_files(IN), "output": OUT}
    result = workshop.step("context_facts.py", *arguments, **fields)()
    told = json.loads(s3.cat_file(result.output_file).splitlines()[0])
    assert told["argv"][1:] == ["--model", f"s3://{BUCKET}/model.bin", f"--in={IN}", f"--out={OUT}/x"]
    assert told["side_inputs"] == {"model": f"s3://{BUCKET}/model.bin"}
    assert told["output_dir"] == told["bi_output"] == OUT
    assert workshop.step("context_facts.py", *arguments, **fields)().reused
    s3.pipe_file(f"{BUCKET}/model.bin", b"2")
    assert not workshop.step("context_facts.py", *arguments, **fields)().reused
    with pytest.raises(InputError, match=r"s3://bucket/absent: does not exist"):
        workshop.step("context_facts.py", **{**fields, "side_inputs": {"model": f"s3://{BUCKET}/absent"}})()


def test_a_summary_in_a_store(workshop, s3):
    """Nothing is published; the run directory is there; what lies in the output is what makes it the same."""
    result = workshop.step(output=OUT, output_action="summary_only")()
    assert (result.output_file, result.rows) == (None, 100)
    assert {name.rpartition("/")[2] for name in s3.ls(OUT)} == {"_parallel_run"}
    assert workshop.step(output=OUT, output_action="summary_only")().reused
    s3.pipe_file(f"{BUCKET}/out/new", b"1")
    assert not workshop.step(output=OUT, output_action="summary_only")().reused


def test_another_machine_goes_on(workshop, s3, monkeypatch, capsys):
    """All it has is the URL of the run directory."""
    step = workshop.step("poison.py", "--how", "raise", "--poison", "3", run_max_try=1, error_threshold=9, output=OUT)
    with pytest.raises(LimitExceededError):
        step()
    (run,) = s3.ls(f"{OUT}/_parallel_run")
    assert not s3.exists(f"{OUT}/parallel_run_step.txt")
    monkeypatch.setenv("PREFECT_HOME", str(workshop.folder / "another"))
    assert main(["resume", f"s3://{run}", "--error-threshold", "10"]) == 0
    assert len(workshop.invocations()) <= 10 + 1  # the ten, and what was stopped while it ran
    assert s3.cat_file(f"{OUT}/parallel_run_step.txt").decode().split() == [
        f"f{number:03d}.txt" for number in range(100) if number // 10 != 3
    ]
    capsys.readouterr()
    assert main(["verify", f"s3://{run}"]) == 0


def test_an_object_that_changes_after_planning_fails_its_mini_batch(workshop, s3):
    """By its ETag, although it has the same size."""
    fill(s3)

    def change(method, path):
        if path.endswith("/in/f003.txt") and method == "GET":
            s3.proxy.fault = lambda method, path: None
            s3.pipe_file(f"{BUCKET}/in/f003.txt", b"X")

    s3.proxy.fault = change
    result = reading(workshop, error_threshold=2)()
    assert lines(result) == [line for line in EXPECTED if line[3] not in "23"]
    failed = [json.loads(line) for line in Path(result.run_directory, "failed_items.jsonl").read_text().splitlines()]
    assert [one["path"] for one in failed] == [f"{IN}/f002.txt", f"{IN}/f003.txt"]
    assert {one["outcome"] for one in failed} == {"input_changed"}
    assert "f003.txt has been modified" in failed[0]["error"]
    assert {one["tries"] for one in failed} == {1}


def test_an_object_that_vanishes(workshop, s3):
    """Is named."""
    fill(s3)

    def vanish(method, path):
        if path.endswith("/in/f003.txt") and method == "GET":
            s3.proxy.fault = lambda method, path: None
            s3.rm_file(f"{BUCKET}/in/f003.txt")

    s3.proxy.fault = vanish
    with pytest.raises(LimitExceededError, match=r"f003.txt has been removed since the run was planned"):
        reading(workshop)()


@pytest.mark.parametrize("fault", ["500", "cut", "slow"])
def test_passing_faults_are_got_over(workshop, s3, fault):
    """While listing, fetching and publishing."""
    fill(s3)
    for part in ("GET /bucket", "/in/f004.txt", "PUT /bucket/out"):
        s3.proxy.fault = first(2, part, fault)
        result = reading(workshop, output=OUT, name=f"over-{abs(hash(part))}")()
        assert s3.cat_file(result.output_file).decode().splitlines() == EXPECTED


def test_an_object_that_cannot_be_fetched_fails_its_mini_batch_alone(workshop, s3):
    """After all tries; it is named, with the store's own words."""
    fill(s3)
    s3.proxy.fault = lambda method, path: "500" if method == "GET" and path.endswith("/in/f004.txt") else None
    result = reading(workshop, run_max_try=2, error_threshold=2)()
    assert lines(result) == [line for line in EXPECTED if line[3] not in "45"]
    failed = [json.loads(line) for line in Path(result.run_directory, "failed_items.jsonl").read_text().splitlines()]
    assert [(one["path"], one["tries"]) for one in failed] == [(f"{IN}/f004.txt", 2), (f"{IN}/f005.txt", 2)]
    assert "f004.txt or another object of its mini-batch" in failed[0]["error"]


def test_a_store_that_does_not_take_the_result(workshop, s3, capsys):
    """Is the run's end; what is finished is kept, and goes up when the store is back."""
    s3.proxy.fault = lambda method, path: "500" if method == "PUT" and path.endswith("parallel_run_step.txt") else None
    with pytest.raises(OutputError, match=r"s3://bucket/out/parallel_run_step.txt: cannot be written"):
        workshop.step(output=OUT)()
    assert not s3.exists(f"{OUT}/parallel_run_step.txt")
    s3.proxy.reset()
    result = workshop.step(output=OUT)()
    assert s3.cat_file(result.output_file).decode().split() == [f"f{number:03d}.txt" for number in range(100)]
    assert len(workshop.invocations()) == 10


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"s3://{BUCKET}/none", r"none: does not exist"),
        (f"s3://{BUCKET}/none*", r"none\*: has no items"),
        ("s3://no-such-bucket/x", r"no-such-bucket/x: does not exist"),
        ("nowhere://x/y", r"nowhere://x/y: cannot be read: ValueError: Protocol not known: nowhere"),
    ],
)
def test_inputs_that_are_none(workshop, s3, url, words):
    """The error names the URL."""
    with pytest.raises(InputError, match=words):
        reading(workshop, inputs=url)()


def test_an_output_in_no_bucket(workshop, s3):
    """The error names it, before anything has run."""
    with pytest.raises(OutputError, match=r"s3://no-such-bucket/out"):
        workshop.step(output="s3://no-such-bucket/out")()
    assert workshop.invocations() == []


def test_secrets_of_the_store_are_written_nowhere(workshop, s3, caplog):
    """Not in the run directory, not in the log."""
    fill(s3)
    s3.proxy.fault = lambda method, path: "500" if method == "GET" and path.endswith("/in/f004.txt") else None
    result = reading(workshop, run_max_try=1, error_threshold=-1)()
    assert "canary-of-the-store" not in caplog.text
    for path in Path(result.run_directory).rglob("*"):
        if path.is_file():
            assert b"canary-of-the-store" not in path.read_bytes()
    shutil.rmtree(result.run_directory)
