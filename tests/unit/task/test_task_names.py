"""Distinguishable names of task runs."""

import pytest

from prefect_parallel_run import FileDataset, TabularDataset
from prefect_parallel_run.task.task_names import task_run_name

DEFAULTS = {"inputs": "/data/all", "output": "/out", "side_inputs": None, "arguments": ["--x", "1"]}


class Pending:
    """A value that is not known yet."""


def name(defaults=DEFAULTS, **changed):
    return task_run_name("score", defaults, lambda value: isinstance(value, Pending))(parameters={**defaults, **changed})


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "score"),
        ({"inputs": "/data/2024/01/"}, "score 2024/01"),
        ({"inputs": FileDataset.from_files("/data/a").as_named_input("january")}, "score january"),
        ({"inputs": FileDataset.from_files(["/data/a/x", "/data/b"])}, "score a/x +1"),
        ({"inputs": ["/data/a", "/data/b"]}, "score data/a +1"),
        ({"inputs": "https://host/a/b.csv?signature=secret#x"}, "score a/b.csv"),
        (
            {"inputs": TabularDataset.from_sql_query("SELECT a / b FROM t", "postgresql://me@host/shop")},
            "score query 'SELECT a / b FROM t' in postgresql://host/shop",
        ),
        ({"output": "/results/one"}, "score results/one"),
        ({"arguments": ["--x", "2"]}, "score --x 2"),
        ({"inputs": "/" + "x" * 100}, "score " + "x" * 60),
        ({"inputs": "/a/\x1b[2J"}, "score a/?[2J"),
    ],
)
def test_a_run_is_named_after_what_differs_from_the_step(changed, expected):
    """Its inputs first, then its output, then its arguments."""
    assert name(**changed) == expected


def test_the_steps_own_values_are_not_part_of_the_name():
    """Even if they are futures when the step is created."""
    defaults = {**DEFAULTS, "inputs": [Pending()]}
    assert name(defaults, inputs=["/data/a"]) == "score"
