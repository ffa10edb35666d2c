"""Steps from functions in real processes, which must register the same hooks as the flow process."""

import re
import runpy

import pytest

from prefect_parallel_run import EntryScriptError

STEP = """import sys
from prefect_parallel_run import parallel_run

CALLS = []

@parallel_run(error_threshold=0, output_action="append_row")
def score(paths):
    return [" ".join(["rows", *CALLS]) for _ in paths]

def load():
    CALLS.append("loaded")

def reload():
    CALLS.append("reloaded")

def register():
    score.init(load)

is_main = __name__ == "__main__"
"""

#: The end of the file; and the function that is then registered as init in a flow process that runs it, and in a child.
CASES = {
    "call": ("score.init(load)\n", "load()", "load()"),
    "function": ("register()\n", "load()", "load()"),
    "other condition": ("if score:\n    register()\n", "load()", "load()"),
    "below the guard": ("if is_main:\n    pass\nregister()\n", "load()", "load()"),
    "no hook": ("", "not registered", "not registered"),
    "if": ("if __name__ == '__main__':\n    score.init(load)\n", "load()", "not registered"),
    "variable": ("if is_main:\n    register()\n", "load()", "not registered"),
    "and": ("is_main and register()\n", "load()", "not registered"),
    "match": ("match __name__:\n    case '__main__':\n        register()\n", "load()", "not registered"),
    "another fact": ("if not hasattr(score, 'hooks'):\n    register()\n", "load()", "not registered"),
    "only as a module": ("if not is_main:\n    register()\n", "not registered", "load()"),
    "another function": ("score.init(load if is_main else reload)\n", "load()", "reload()"),
}


@pytest.fixture
def steps(tmp_path):
    return tmp_path / "steps.py"


def tried(step, file):
    """Return the row that a real process returns for one item."""
    return step.try_out(1, inputs=str(file)).rows


@pytest.mark.parametrize("case", CASES)
def test_a_process_starts_only_with_the_hooks_of_the_flow(steps, case):
    """However the file decides to register them."""
    text, there, here = CASES[case]
    steps.write_text(STEP + text)
    step = runpy.run_path(str(steps), run_name="__main__")["score"]
    if there == here:
        assert tried(step, steps) == ["rows loaded" if there == "load()" else "rows"]
        return
    message = (
        f"score.init is {there} in the flow process but {here} in this process, which imports {steps} as the module steps; "
        "register the same function however the file is imported: at its top level"
    )
    with pytest.raises(EntryScriptError, match=f"it cannot be imported: NotAnEntryScript: {re.escape(message)}"):
        tried(step, steps)


def test_a_hook_registered_from_another_file_is_an_error(steps):
    """It would be missing in the processes of the step."""
    steps.write_text(STEP)
    names = runpy.run_path(str(steps), run_name="steps")
    names["register"]()
    with pytest.raises(EntryScriptError, match=r"score.init is load\(\) in the flow process but not registered in this"):
        tried(names["score"].with_options(name="a copy"), steps)
