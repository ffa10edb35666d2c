"""What the README and the documentation print is true: code parses, names and options exist, links lead somewhere."""

import ast
import importlib
import re
import shlex
from itertools import groupby
from pathlib import Path

import click
import pytest

from prefect_parallel_run.cli.app import COMMANDS, program

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page, language):
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def named(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


@named([page for page in PAGES if blocks(page, "python")])
def test_the_python_is_python(page):
    """And every name of ours that it imports exists."""
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("prefect_parallel_run"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)


@named([page for page in PAGES if blocks(page, "bash")])
def test_the_commands_exist(page):
    """With the options that they are shown with."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.shlex(line, posix=True, punctuation_chars="|&;")
            words.whitespace_split = True
            for is_command, group in groupby(words, lambda word: not re.fullmatch("[|&;]+", word)):
                command = list(group)
                if is_command and command[0] == "prefect-parallel-run":
                    check_command(command[1:])


def check_command(words):
    """Fail unless the command exists and has every option among the words."""
    context = click.Context(program, **program.context_settings)
    if words[0].startswith("-"):
        assert words[0] in {"-h", "--help"}, words
        return
    assert words[0] in COMMANDS, words
    command = program.get_command(context, words[0])
    known = {option for parameter in command.get_params(context) for option in (*parameter.opts, *parameter.secondary_opts)}
    options = {
        word.partition("=")[0] for word in words[1 : words.index("--") if "--" in words else None] if word[:1] == "-" != word
    }
    assert {option for option in options if not re.fullmatch(r"-\d+", option)} <= known, words


@named(PAGES)
def test_the_links_lead_somewhere(page):
    """To files that exist and headings that they have."""
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        if not target.startswith(("https://", "http://")):
            path, _, anchor = target.partition("#")
            file = (page.parent / path) if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


def anchors(page):
    """The anchors that Sphinx and GitHub give the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    explicit = re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {*explicit, *(re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles)}


def test_every_page_is_in_the_table_of_contents():
    """In one of the lists of pages, by its path without the suffix."""
    listed = set()
    for page in PAGES:
        for block in blocks(page, r"\{toctree\}"):
            listed |= {(page.parent / line.strip()).with_suffix(".md") for line in block.splitlines() if re.match(r"\w", line)}
    assert listed == {page for page in PAGES if "docs" in page.relative_to(ROOT).parts} - {ROOT / "docs" / "index.md"}


def test_the_readme_and_the_pictures_stay_small():
    """A reader of the README gets to its end; a clone stays quick."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    assert sum(path.stat().st_size for path in (ROOT / "docs" / "pictures").iterdir()) < 1_000_000
