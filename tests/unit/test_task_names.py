"""Task runs that people can tell apart."""

import pytest

from prefect_parallel_run import FileDataset
from prefect_parallel_run.task.task_names import task_run_name

GIVEN = {"inputs": "/data/all", "output": "/out", "side_inputs": None, "arguments": ["--x", "1"]}


class Pending:
    """Stands for a value that comes later."""


def name(given=GIVEN, **changed):
    return task_run_name("score", given, lambda value: isinstance(value, Pending))(parameters={**given, **changed})


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "score"),
        ({"inputs": "/data/2024/01/"}, "score 2024/01"),
        ({"inputs": FileDataset.from_files("/data/a").as_named_input("january")}, "score january"),
        ({"inputs": FileDataset.from_files(["/data/a/x", "/data/b"])}, "score a/x +1"),
        ({"inputs": ["/data/a", "/data/b"]}, "score data/a +1"),
        ({"inputs": "https://host/a/b.csv?signature=secret#x"}, "score a/b.csv"),
        ({"output": "/results/one"}, "score results/one"),
        ({"arguments": ["--x", "2"]}, "score --x 2"),
        ({"inputs": "/" + "x" * 100}, "score " + "x" * 60),
        ({"inputs": "/a/\x1b[2J"}, "score a/?[2J"),
    ],
)
def test_a_run_is_named_after_what_is_special_about_it(changed, expected):
    """Its inputs first, then its output, then its arguments."""
    assert name(**changed) == expected


def test_what_the_step_was_made_with_is_nothing_special():
    """Also when it had to be waited for."""
    given = {**GIVEN, "inputs": [Pending()]}
    assert name(given, inputs=["/data/a"]) == "score"
