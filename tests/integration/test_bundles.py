"""Bundles with real processes: unpacked once, whole or not at all; and git agrees on what is ignored."""

import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from prefect_parallel_run import ParallelRunConfig
from prefect_parallel_run.node.remote_setup import Incoming, make_bundle, unpack, unpacked
from prefect_parallel_run.runs.fingerprint import source_tree
from prefect_parallel_run.runs.source_files import SourceTree

from .conftest import wait_until

UNPACK = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from prefect_parallel_run.node import remote_setup

archive, sha256, cache, noted, hangs = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5]
extract = remote_setup._extract_member

def slow(archive, member, path):
    extract(archive, member, path)
    with noted.open("a") as file:
        file.write("member\\n")
    if hangs == "hangs":
        input()

remote_setup._extract_member = slow
with ThreadPoolExecutor(4) as threads:
    found = set(threads.map(lambda _: remote_setup.unpack(archive, sha256, cache), range(4 if hangs != "hangs" else 1)))
(folder,) = found
print(folder, len(list(folder.iterdir())))
"""


@pytest.fixture
def bundle(tmp_path):
    source = tmp_path / "code"
    source.mkdir()
    for name in ["score.py", *(f"module_{number}.py" for number in range(9))]:
        (source / name).write_text("x = 1\n")
    config = ParallelRunConfig(
        entry_script="score.py", source_directory=str(source), error_threshold=0, output_action="append_row"
    )
    return make_bundle(source_tree(config), tmp_path / "bundles")


@pytest.fixture
def unpacking(tmp_path, bundle):
    """Starts processes that unpack the bundle; none is left."""
    started = []

    def start(how="quick"):
        archive = tmp_path / "bundles" / bundle.file_name
        command = [sys.executable, "-c", UNPACK, archive, bundle.sha256, tmp_path / "cache", tmp_path / "noted", how]
        process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_an_archive_is_unpacked_once(tmp_path, bundle, unpacking):
    """All processes and threads get the same complete folder, written once."""
    processes = [unpacking() for _ in range(6)]
    folders = {process.communicate(timeout=300)[0].strip() for process in processes}
    assert folders == {f"{tmp_path / 'cache' / 'bundles' / bundle.sha256} 10"}
    assert (tmp_path / "noted").read_text().count("member") == 10


def test_a_killed_unpacking_leaves_no_complete_folder(tmp_path, bundle, unpacking):
    """A waiting process unpacks it instead."""
    first = unpacking("hangs")
    wait_until((tmp_path / "noted").exists)
    waiting = unpacking()
    assert unpacked(tmp_path / "cache", bundle.sha256) is None
    first.send_signal(signal.SIGKILL)
    first.wait(300)
    assert waiting.communicate(timeout=300)[0].split()[1] == "10"
    folder = unpack(tmp_path / "bundles" / bundle.file_name, bundle.sha256, tmp_path / "cache")
    assert {path.name for path in folder.parent.iterdir()} == {bundle.sha256, f"{bundle.sha256}.lock"}


def test_receivers_of_one_archive_are_independent(tmp_path, bundle):
    """As when two workers of one machine receive it at the same time."""
    data, barrier = (tmp_path / "bundles" / bundle.file_name).read_bytes(), threading.Barrier(4)

    def receive(size):
        with Incoming(tmp_path / "cache", bundle.sha256) as incoming:
            for offset in range(0, len(data), size):
                barrier.wait(300)
                incoming.write(offset, data[offset : offset + size])
            return incoming.unpack()

    with ThreadPoolExecutor(4) as threads:
        (folder,) = set(threads.map(receive, [len(data) // 3] * 4))
    assert len(list(folder.iterdir())) == 10
    assert {path.name for path in folder.parent.iterdir()} == {bundle.sha256, f"{bundle.sha256}.lock"}


@pytest.mark.parametrize("given", ["proj/pkg/sub", "proj/pkg", None])
def test_a_script_runs_from_an_unpacked_bundle(bench, files, tmp_path, given):
    """With its relative imports, up to the top of its package."""
    package = tmp_path / "proj" / "pkg"
    (package / "sub").mkdir(parents=True)
    for folder in (package, package / "sub"):
        (folder / "__init__.py").touch()
    (package / "sub" / "helper.py").write_text("def rows(items):\n    return [len(items)]\n")
    top = "" if given == "proj/pkg/sub" else "from ..top import NAME\n"
    (package / "top.py").write_text("NAME = 1\n")
    (package / "sub" / "score.py").write_text(f"{top}from .helper import rows\nfrom pkg.sub import helper\nrun = rows\n")
    source = tmp_path / given if given else None
    script = package / "sub" / "score.py"
    config = ParallelRunConfig(
        entry_script=str(script.relative_to(source) if source else script),
        source_directory=source and str(source),
        error_threshold=0,
        output_action="append_row",
    )
    made = make_bundle(source_tree(config), tmp_path / "bundles")
    root = unpack(tmp_path / "bundles" / made.file_name, made.sha256, tmp_path / "cache")
    shutil.rmtree(tmp_path / "proj")
    slot = bench.slot(str(root / made.script), source=str(root / made.source))
    assert {receipt.outcome for receipt in bench.attempt(slot, bench.works(files))} == {"succeeded"}


@pytest.mark.parametrize(("packages", "given"), [(True, None), (True, "proj"), (False, "proj")])
def test_a_step_from_functions_runs_from_an_unpacked_bundle(bench, files, tmp_path, packages, given):
    """With absolute imports of its own package; a folder without __init__.py is one below source_directory."""
    package = tmp_path / "proj" / "own_package"
    package.mkdir(parents=True)
    if packages:
        (package / "__init__.py").touch()
    (package / "util.py").write_text("def rows(items):\n    return [len(items)]\n")
    (package / "steps.py").write_text(
        "from prefect_parallel_run import parallel_run\nfrom own_package.util import rows\n\n"
        "@parallel_run(error_threshold=0, output_action='append_row')\ndef score(paths):\n    return rows(paths)\n"
    )
    config = ParallelRunConfig(
        entry_script="own_package/steps.py" if given else str(package / "steps.py"),
        entry_function="score",
        source_directory=given and str(tmp_path / given),
        error_threshold=0,
        output_action="append_row",
    )
    made = make_bundle(source_tree(config), tmp_path / "bundles")
    root = unpack(tmp_path / "bundles" / made.file_name, made.sha256, tmp_path / "cache")
    shutil.rmtree(tmp_path / "proj")
    slot = bench.slot(str(root / made.script), source=str(root / made.source), function="score")
    assert {receipt.outcome for receipt in bench.attempt(slot, bench.works(files))} == {"succeeded"}


@pytest.mark.skipif(shutil.which("git") is None, reason="asks git")
@pytest.mark.parametrize(
    "rules",
    [
        {"": "*.csv\nbuild/\n/top.txt\n"},
        {"": "*\n!*.py\n!*/\n"},
        {"": "data/**\n!data/keep.csv\n# comment\n\\#odd\n"},
        {"": "data/*\n!data/keep.csv\n", "data": "keep.csv\n"},
        {"": "*.csv\n", "data": "!keep.csv\n/deep/*.py\n"},
        {"": "**/deep\n", "pkg": "*.txt\n"},
        {"": "a/**/z.py\npkg/deep\n[st]*.py\n?op.txt  \n"},
        {"": "data\n!data/keep.csv\n"},
        {"": "[[:alpha:]]op.txt\n[!a-z]*\n***.csv\nbuild\\\n"},
        {"": "/*\n!/pkg/\n/pkg/*\n!/pkg/deep/\n"},
    ],
)
def test_git_leaves_out_the_same_files(tmp_path, rules):
    """Its own rules, as it applies them."""
    for name in ["score.py", "top.txt", "#odd", "data/keep.csv", "data/raw.csv", "data/deep/a.py", "data/deep/b.csv"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ["pkg/top.txt", "pkg/deep/c.py", "pkg/build/d.py", "build/e.py", "a/b/c/z.py", "a/z.py", "a/build"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for folder, text in rules.items():
        (tmp_path / folder / ".gitignore").write_text(text)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True, timeout=300)
    listed = subprocess.run(
        ["git", "-c", "core.excludesFile=", "ls-files", "--others", "--exclude-standard", "-z"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    expected = {name for name in listed.stdout.split("\0") if name and not name.endswith(".gitignore")}
    assert {file.name for file in SourceTree(tmp_path, tmp_path / "score.py", True).files()} == expected
