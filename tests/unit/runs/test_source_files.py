"""The files of the script's code: the same ones count for the fingerprint and are sent to the nodes."""

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


def test_a_source_directory_is_included_completely(tmp_path):
    """Only caches, hidden files and the like are excluded."""
    tree(
        tmp_path, ["score.py", "model.bin", "lib/deep/a.txt", "lib/__pycache__/a.pyc", "node_modules/x.js", ".env", ".git/HEAD"]
    )
    tree(
        tmp_path, ["v/pyvenv.cfg", "v/bin/python", "out/_parallel_run/run/ledger", "out/result.txt", ".ipynb_checkpoints/a.py"]
    )
    assert code(tmp_path) == {"score.py", "model.bin", "lib/deep/a.txt"}


def test_without_source_directory_nearby_python_files_are_code(tmp_path):
    """They start above its outermost package, so that all relative imports work."""
    tree(tmp_path, ["pkg/__init__.py", "pkg/sub/__init__.py", "pkg/sub/score.py", "pkg/data.csv", "beside.py", "data/x.bin"])
    found = code(tmp_path / "pkg" / "sub", whole=False)
    assert found == {"pkg/__init__.py", "pkg/sub/__init__.py", "pkg/sub/score.py", "beside.py"}


def test_the_script_is_code_even_without_the_ending_py(tmp_path):
    """The configuration names it."""
    tree(tmp_path, ["score", "other", "helper.py"])
    assert code(tmp_path, "score", whole=False) == {"score", "helper.py"}


def test_a_source_directory_that_is_a_package_keeps_its_name(tmp_path):
    """Of its parent packages only __init__.py is included: importing the script runs them."""
    tree(tmp_path, ["a/__init__.py", "a/secret.py", "a/b/__init__.py", "a/b/score.py", "a/b/t/x.csv", "a/b/.amlignore:/t/"])
    assert code(tmp_path / "a" / "b") == {"a/__init__.py", "a/b/__init__.py", "a/b/score.py"}


@pytest.mark.parametrize("sign", ["_parallel_run/run/ledger", "pyvenv.cfg"])
def test_the_folder_of_the_script_is_always_code(tmp_path, sign):
    """It may contain the output, or be the folder of a virtual environment."""
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
def test_amlignore_or_else_gitignore_excludes_files(tmp_path, rules, left):
    """Both use gitignore's syntax; only .gitignore may be nested."""
    tree(tmp_path, ["score.py", "a.log", "data/a.log", "data/b.csv", "data/raw/c.csv"])
    for name, text in rules.items():
        (tmp_path / name).write_text(text)
    assert code(tmp_path) == left


@pytest.mark.parametrize("rule", ["!", "score[", "\\", "score.py\\", "[!", "[z-a]core.py", "/", "[[:no:]]core.py"])
def test_an_empty_rule_excludes_nothing(tmp_path, rule):
    """git does the same."""
    tree(tmp_path, ["score.py", f".gitignore:{rule}"])
    assert code(tmp_path) == {"score.py"}


def test_links_and_special_files_are_not_followed(tmp_path):
    """Their mode tells them from regular files."""
    tree(tmp_path / "code", ["score.py"])
    tree(tmp_path / "other", ["x.py"])
    (tmp_path / "code" / "file.py").symlink_to(tmp_path / "other" / "x.py")
    (tmp_path / "code" / "folder").symlink_to(tmp_path / "other")
    os.mkfifo(tmp_path / "code" / "pipe")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "code" / "door"))
    assert code(tmp_path / "code") == {"score.py", "file.py", "folder", "pipe", "door"}


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """It is an error only in source_directory; folders beside a script may belong to other users."""
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
