"""What belongs to the script's code: the same files count as a change of it and travel."""

import os
import socket

import pytest

from prefect_parallel_run.runs.source_files import SourceTree


def tree(root, names):
    """Make files below a folder; what they hold follows a colon."""
    for given in names:
        name, _, text = given.partition(":")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def code(folder, script="score.py", *, whole=True):
    return {file.name for file in SourceTree(folder, folder / script, whole).files()}


def test_a_source_directory_is_taken_whole(tmp_path):
    """But for what is no code in any case."""
    tree(
        tmp_path, ["score.py", "model.bin", "lib/deep/a.txt", "lib/__pycache__/a.pyc", "node_modules/x.js", ".env", ".git/HEAD"]
    )
    tree(
        tmp_path, ["v/pyvenv.cfg", "v/bin/python", "out/_parallel_run/run/ledger", "out/result.txt", ".ipynb_checkpoints/a.py"]
    )
    assert code(tmp_path) == {"score.py", "model.bin", "lib/deep/a.txt"}


def test_without_one_it_is_the_python_files_around_the_script(tmp_path):
    """Up to the folder above its outermost package, so that relative imports find all they may reach."""
    tree(tmp_path, ["pkg/__init__.py", "pkg/sub/__init__.py", "pkg/sub/score.py", "pkg/data.csv", "beside.py", "data/x.bin"])
    found = code(tmp_path / "pkg" / "sub", whole=False)
    assert found == {"pkg/__init__.py", "pkg/sub/__init__.py", "pkg/sub/score.py", "beside.py"}


def test_a_script_with_another_ending_belongs_to_it_all_the_same(tmp_path):
    """It is what the config names."""
    tree(tmp_path, ["score", "other", "helper.py"])
    assert code(tmp_path, "score", whole=False) == {"score", "helper.py"}


def test_a_source_directory_that_is_a_package_keeps_its_name(tmp_path):
    """Of the packages around it only their __init__.py belongs to it: importing the script runs them."""
    tree(tmp_path, ["a/__init__.py", "a/secret.py", "a/b/__init__.py", "a/b/score.py", "a/b/t/x.csv", "a/b/.amlignore:/t/"])
    assert code(tmp_path / "a" / "b") == {"a/__init__.py", "a/b/__init__.py", "a/b/score.py"}


@pytest.mark.parametrize("sign", ["_parallel_run/run/ledger", "pyvenv.cfg"])
def test_where_the_script_lies_is_code(tmp_path, sign):
    """Though the output is written there, or it is the folder of a virtual environment."""
    tree(tmp_path, ["tasks/score.py", f"tasks/{sign}", "tasks/lib/python3/site-packages/x.py", "a.py"])
    assert {"tasks/score.py", "a.py"} <= code(tmp_path, "tasks/score.py")
    assert not {"tasks/_parallel_run/run/ledger", "tasks/lib/python3/site-packages/x.py"} & code(tmp_path, "tasks/score.py")


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ({}, {"score.py", "a.log", "data/a.log", "data/b.csv", "data/raw/c.csv"}),
        ({".gitignore": "*.log"}, {"score.py", "data/b.csv", "data/raw/c.csv"}),
        ({".gitignore": "/a.log\r\n# data/\r\n"}, {"score.py", "data/a.log", "data/b.csv", "data/raw/c.csv"}),
        ({".gitignore": "data/\n!data/b.csv"}, {"score.py", "a.log"}),
        ({".gitignore": "data/*\n!data/b.csv"}, {"score.py", "a.log", "data/b.csv"}),
        ({".gitignore": "data/**\n!data/b.csv"}, {"score.py", "a.log", "data/b.csv"}),
        ({".gitignore": "*.csv", "data/.gitignore": "!b.csv\n/a.log"}, {"score.py", "a.log", "data/b.csv"}),
        ({".gitignore": "*.log", ".amlignore": "*.csv", "data/.gitignore": "*"}, {"score.py", "a.log", "data/a.log"}),
        ({".amlignore": "\ufeffraw/\n"}, {"score.py", "a.log", "data/a.log", "data/b.csv"}),
        ({".gitignore": "data/*/c.csv", "data/.amlignore": "*"}, {"score.py", "a.log", "data/a.log", "data/b.csv"}),
    ],
)
def test_amlignore_and_else_gitignore_leave_files_out(tmp_path, rules, left):
    """In gitignore's syntax; nested files count for .gitignore alone."""
    tree(tmp_path, ["score.py", "a.log", "data/a.log", "data/b.csv", "data/raw/c.csv"])
    for name, text in rules.items():
        (tmp_path / name).write_text(text)
    assert code(tmp_path) == left


@pytest.mark.parametrize("rule", ["!", "score[", "\\", "score.py\\", "[!", "[z-a]core.py", "/", "[[:no:]]core.py"])
def test_a_rule_that_says_nothing_leaves_nothing_out(tmp_path, rule):
    """As in git."""
    tree(tmp_path, ["score.py", f".gitignore:{rule}"])
    assert code(tmp_path) == {"score.py"}


def test_links_and_other_things_are_told_as_what_they_are(tmp_path):
    """Nothing is followed."""
    tree(tmp_path / "code", ["score.py"])
    tree(tmp_path / "other", ["x.py"])
    (tmp_path / "code" / "file.py").symlink_to(tmp_path / "other" / "x.py")
    (tmp_path / "code" / "folder").symlink_to(tmp_path / "other")
    os.mkfifo(tmp_path / "code" / "pipe")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "code" / "door"))
    assert code(tmp_path / "code") == {"score.py", "file.py", "folder", "pipe", "door"}


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """It belongs to source_directory; beside a lone script it may be anybody's."""
    tree(tmp_path, ["score.py", "closed/a.py"])
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    with pytest.raises(ValueError, match=r"source_directory.*closed"):
        code(tmp_path)
    assert code(tmp_path, whole=False) == {"score.py"}
