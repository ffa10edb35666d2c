"""The registry of table formats: a new format is a class per half and an entry."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from prefect_parallel_run import TabularDataset
from prefect_parallel_run.child.reading import Reader
from prefect_parallel_run.child.table_formats import TABLE_FORMATS, TableFormat, TableReader, create_reader
from prefect_parallel_run.cli.step_options import dataset_options
from prefect_parallel_run.datasets.formats import FilePlan, Piece, TablePlanner, create_planner
from prefect_parallel_run.monitoring.locations import location_of
from prefect_parallel_run.planning.inputs import normalize_inputs
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.task import forms

from ...plans import write_plan


class Words(TablePlanner):
    """Divides a text at blanks; the mini-batch size is a number of words."""

    def plan(self, file, size):
        words = Path(file.path).read_text().split()
        parts = [words[start : start + size] for start in range(0, len(words), size)]
        return FilePlan({}, (Piece(len(part), 0, {"words": part, "rows": len(part)}) for part in parts), names=["word"])


class WordsReader(TableReader):
    """Reads the words, which are in the plan."""

    def read(self, work, piece=None):
        return pd.DataFrame({"word": work["words"][slice(*piece or (None,))]})


@pytest.fixture
def words(monkeypatch):
    """Registers the format, as two files and an entry would."""
    monkeypatch.setitem(sys.modules, "prefect_parallel_run.datasets.formats.words", SimpleNamespace(Words=Words))
    monkeypatch.setitem(sys.modules, "prefect_parallel_run.child.words", SimpleNamespace(WordsReader=WordsReader))
    monkeypatch.setitem(TABLE_FORMATS, "words", TableFormat("Words", "words.Words", "words.WordsReader"))


def test_a_registered_format_is_planned_and_read(words, tmp_path):
    """Two classes and an entry are all that a new format needs."""
    (tmp_path / "t").write_text("one two three four five")
    dataset = TabularDataset(paths=[str(tmp_path / "t")], format="words")
    write_plan(normalize_inputs([dataset]), 2, tmp_path / "plan.parquet")
    works = [json.loads(work) for work in Plan(tmp_path / "plan.parquet").works(0, 3)]
    frames = [Reader().read(work) for work in works]
    assert [frame["word"].tolist() for frame in frames] == [["one", "two"], ["three", "four"], ["five"]]
    assert Reader().read(works[1], [1, 2])["word"].tolist() == ["four"]
    assert location_of(works[0]) == f"{tmp_path / 't'}, 2 rows"


def test_an_unregistered_format_is_refused():
    """The error lists the formats."""
    with pytest.raises(
        ValueError, match="format: expected one of parquet, delimited, json_lines, arrow, orc, delta, iceberg, got 'words'"
    ):
        TabularDataset(paths=["/t"], format="words")


@pytest.mark.parametrize("name", TABLE_FORMATS)
def test_both_halves_of_a_format_exist(name):
    """As does the function that users call."""
    assert isinstance(create_planner(TabularDataset(paths=[path_of(name)], format=name)), TablePlanner)
    assert isinstance(create_reader(name), TableReader)
    create = f"from_{name}_table" if name in ("delta", "iceberg") else f"from_{name}_files"
    assert getattr(TabularDataset, create)(path_of(name)).format == name


def path_of(name):
    return "catalog.namespace.table" if TABLE_FORMATS[name].is_named else "/t"


@pytest.mark.parametrize("name", TABLE_FORMATS)
def test_forms_and_command_line_follow_the_registry(name):
    """The same options apply in both."""
    form = forms.dataset(0, {f"{name}_files": [path_of(name)]})
    assert (form.format, form.paths) == (name, [path_of(name)])
    for option in TABLE_FORMATS[name].options:
        kind = forms._KINDS[f"{name}_files"]
        assert option in kind.model_fields
        assert dataset_options(name.replace("_", "-"), {option: "a=b" if option != "column_types" else ["a=b"]})
