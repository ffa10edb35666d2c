"""A step from functions: what becomes one, what it is then, and what is refused with advice."""

import functools
import importlib.util
import json
import re
import runpy
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import ModuleType

import cloudpickle
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prefect import flow, task

from prefect_parallel_run import FunctionStep, ParallelRunConfig, ParallelRunStep, parallel_run
from prefect_parallel_run.child.entry_script import current
from prefect_parallel_run.child.functions import StepFunctions, functions_of, hook_names
from prefect_parallel_run.runs.fingerprint import result_fields
from prefect_parallel_run.testing import NotAnEntryScript, run_script

from ..conftest import SCRIPTS

SCRIPT = SCRIPTS / "from_functions.py"
as_step = parallel_run(error_threshold=0, output_action="append_row")


def through(function):
    """A decorator that keeps the name of its function."""

    @functools.wraps(function)
    def inner(*arguments):
        return function(*arguments)

    return inner


def score(paths):
    """Score them."""
    return paths


@through
def wrapped(paths):
    return paths


def no_argument():
    return []


def load():
    """A hook."""


async def fetch(paths):
    return paths


async def yields(paths):
    yield paths


async def connect():
    """A hook."""


async def yields_nothing():
    """Not a hook."""
    yield


def generates():
    """Not a hook: calling it runs nothing."""
    yield


def needs_a_model(model):
    """Not a hook."""


class Model:
    def score(self, paths):
        return paths

    @staticmethod
    def also(paths):
        return paths


def module_of(path, name="functions_of_a_test"):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_function_becomes_a_step_of_its_file():
    """Its name is the step's, its docstring the description; the rest is a ParallelRunConfig."""
    step = parallel_run(error_threshold=3, output_action="append_row", node_count=2, tags=["a"], inputs="data/*")(score)
    assert isinstance(step, ParallelRunStep)
    config = step.parallel_run_config
    assert (step.name, config.description, step.tags) == ("score", "Score them.", {"a"})
    assert (config.script_path, config.entry_function) == (Path(__file__).resolve(), "score")
    assert (config.error_threshold, config.node_count) == (3, 2)
    assert step.run(["a"]) == ["a"]


def test_decorators_with_wraps_are_looked_through():
    assert as_step(wrapped).parallel_run_config.entry_function == "wrapped"


def test_a_copy_with_other_options_runs_the_same_functions():
    """With its hooks, which may be registered before or after."""
    step = as_step(score)
    copy = step.with_options(name="again", retries=4)
    assert isinstance(copy, FunctionStep)
    assert (copy.name, copy.parallel_run_config.run_max_try, copy.run) == ("again", 5, score)
    assert (step.name, step.parallel_run_config.run_max_try) == ("score", 3)
    assert copy.parallel_run_config.entry_function == "score"


@pytest.mark.parametrize("retries", [-1, 2.5, "3", True])
def test_retries_are_an_integer(retries):
    with pytest.raises(ValueError, match=rf"^retries: expected 0 or a positive integer, got {retries!r}$"):
        as_step(score).with_options(retries=retries)


def test_a_field_of_the_configuration_is_not_an_option_of_a_copy():
    """But Prefect's options of the same name are."""
    with pytest.raises(
        ValueError, match=r"^mini_batch_size is a field of the configuration, not an option of a task; set it in"
    ):
        as_step(score).with_options(mini_batch_size=7)
    assert as_step(score).with_options(retry_jitter_factor=0.5).retry_jitter_factor == 0.5


def test_a_step_can_be_pickled():
    """Task runners send it to other processes."""
    step = cloudpickle.loads(cloudpickle.dumps(as_step(score)))
    assert (step.name, step.parallel_run_config.entry_function, step.run(["a"])) == ("score", "score", ["a"])


def test_a_hook_stays_a_function():
    step = as_step(score)
    assert (step.init(load), step.shutdown(connect)) == (load, connect)


STEP = """from prefect_parallel_run import parallel_run

@parallel_run(error_threshold=0, output_action="append_row")
def score(paths):
    return paths
"""


def run_as(folder, name, text, changed=STEP):
    """Run a file with the step and *text*, as __main__ or as a module."""
    (folder / "steps.py").write_text(changed + text)
    return runpy.run_path(str(folder / "steps.py"), run_name=name)


AGAIN = "first = score\n\n@parallel_run(error_threshold=0, output_action='append_row')\ndef score(paths):\n    return []\n"


def test_a_second_step_of_one_name_is_refused(tmp_path):
    """The processes of both would run the later one."""
    with pytest.raises(ValueError, match=r"steps.py defines the step score in line 3 and again in line 8; .*; rename one"):
        run_as(tmp_path, "__main__", AGAIN)


def test_a_file_that_was_edited_can_be_imported_again(tmp_path):
    """Its globals still have the earlier step, as with importlib.reload."""
    before = run_as(tmp_path, "steps", "")
    (tmp_path / "steps.py").write_text("\n\n" + STEP)
    namespace = dict(before)
    exec(compile((tmp_path / "steps.py").read_text(), str(tmp_path / "steps.py"), "exec"), namespace)
    assert namespace["score"] is not before["score"]


def test_other_attributes_of_a_step_are_refused_with_advice(tmp_path):
    """A process of the step executes the top level of the file, too."""
    message = (
        r"score.map_options does not exist in the step's own processes, which have only .*; use score.map_options in a flow"
    )
    (tmp_path / "steps.py").write_text(STEP + "other = score.with_options(name='b', tags=['c'])\nscore.map_options\n")
    with pytest.raises(AttributeError, match=message):
        run_script(tmp_path / "steps.py", ["a"], entry_function="score")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda paths: paths, "a lambda has no name; expected def at the top level of a Python file"),
        (through(through)(score), None),
        (Model.score, "Model.score is a method; expected def at the top level"),
        (Model().score, "is not a function"),
        (Model.also, "Model.also is a method"),
        (functools.partial(score), "is not a function; expected def"),
        (task(score), "score is a Prefect Task; expected def at the top level"),
        (flow(score), "score is a Prefect Flow; expected def"),
        (Model(), "is not a function"),
        (3, "3 is not a function"),
        (no_argument, "its no_argument() takes no argument; it is called with a mini-batch"),
        (yields, "its yields() is an async generator; expected async def without yield, or def"),
    ],
    ids=(
        *("lambda", "wrapped", "method", "bound-method", "other-method", "partial", "task", "flow", "object", "number"),
        *("no-argument", "async-generator"),
    ),
)
def test_what_a_process_cannot_find_by_name_is_refused(function, message):
    """With what to do; a wrapped function is none of these."""
    if message is None:
        assert as_step(function).name == "score"
        return
    with pytest.raises(ValueError) as caught:
        as_step(function)
    assert message in str(caught.value)


def test_a_nested_function_is_refused():
    """The wrapper of a decorator without functools.wraps is one too."""

    def nested(paths):
        return paths

    with pytest.raises(ValueError, match=r"nested is a nested function; expected def .*functools\.wraps"):
        as_step(nested)


CELL = "def score(paths):\n    return paths\n"


@pytest.mark.parametrize("globals_of", [lambda path: {}, lambda path: {"__file__": str(path)}], ids=["no file", "another file"])
@pytest.mark.parametrize("name", ["<stdin>", "<string>", "/tmp/ipykernel_7/1.py", __file__])
def test_a_function_without_a_file_is_refused(tmp_path, globals_of, name):
    """A REPL and a notebook may have a file for the session, or for the cell, but not one for both that exists."""
    (tmp_path / "session.py").write_text("")
    namespace = globals_of(tmp_path / "session.py")
    exec(compile(CELL, name, "exec"), namespace)
    with pytest.raises(ValueError, match=r"score has no file, as in a REPL or a notebook cell; expected def .*and import it"):
        as_step(namespace["score"])


def test_a_repl_is_refused():
    """A real one."""
    lines = "from prefect_parallel_run import parallel_run\ndef score(paths): return paths\n\n"
    lines += "parallel_run(error_threshold=0, output_action='append_row')(score)\n"
    done = subprocess.run([sys.executable, "-i"], input=lines, capture_output=True, text=True, check=False, timeout=300)
    assert "score has no file" in done.stderr


def test_a_script_that_is_run_is_a_file(tmp_path):
    """As __main__, from another folder."""
    script = tmp_path / "main.py"
    script.write_text(
        SCRIPT.read_text().replace('raise AssertionError("a child imports the file as a module")', "DONE = tells")
    )
    step = runpy.run_path(str(script), run_name="__main__")["DONE"]
    assert (step.parallel_run_config.script_path, step.parallel_run_config.entry_function) == (script.resolve(), "tells")


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (needs_a_model, "needs_a_model: missing a required argument: 'model'; expected one function without required"),
        (lambda: None, "a lambda has no name"),
        (json.dumps, "expected a function in"),
        (yields_nothing, "its yields_nothing() is an async generator"),
        (generates, "its generates() is a generator; expected def or async def, without yield"),
        (Model.score, "Model.score is a method"),
    ],
    ids=["parameters", "lambda", "another file", "async generator", "generator", "method"],
)
def test_a_hook_that_processes_would_not_call_is_refused(hook, message):
    with pytest.raises(ValueError) as caught:
        as_step(score).init(hook)
    assert message in str(caught.value)


def test_coroutines_are_functions_too():
    step = as_step(fetch)
    assert step.parallel_run_config.entry_function == "fetch"


def test_a_second_hook_is_refused():
    step = as_step(score)
    step.init(load)
    with pytest.raises(ValueError, match=r"score\.init is already load, so connect cannot be registered"):
        step.init(connect)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mini_batchsize": 3}, "unknown option 'mini_batchsize'; did you mean mini_batch_size?"),
        ({"entry_script": "a.py"}, "unknown option 'entry_script', which is taken from the function; expected a field"),
        ({"entry_function": "a"}, "taken from the function"),
        ({"fn": print}, "unknown option 'fn'"),
        ({"node_count": 0}, "node_count is 0; expected an integer, 1 or more"),
        ({"name": "_"}, "name: expected letters"),
        ({"source_directory": "tests/data"}, "outside source_directory"),
    ],
    ids=str,
)
def test_wrong_options_are_errors(options, message, monkeypatch):
    monkeypatch.chdir(SCRIPTS.parents[1])
    with pytest.raises(ValueError, match=message):
        parallel_run(**{"error_threshold": 0, "output_action": "append_row", **options})(score)


def test_the_decorator_without_parentheses_is_an_error():
    """In the flow process and in those of the step, which import the same file."""
    with pytest.raises(TypeError, match=r"options in parentheses, such as @parallel_run\(.*, got <function score at"):
        parallel_run(score)


def test_the_name_is_part_of_the_fingerprint():
    """A configuration without one keeps the fingerprint that it had before the field existed."""
    fields = {"entry_script": str(SCRIPT), "error_threshold": 0, "output_action": "append_row"}
    assert "entry_function" not in result_fields(ParallelRunConfig(**fields))
    assert result_fields(ParallelRunConfig(**fields, entry_function="tells"))["entry_function"] == "tells"


@given(st.one_of(st.text(max_size=8), st.sampled_from(["score", "größe", "class", "a.b", "a b", "", "1a", None, 3, True])))
@example("a·")  # names may have this dot, which is not a letter
@example("a[b]")  # a function with a parameter of type, from Python 3.12 on
def test_a_name_is_accepted_if_def_accepts_it(name):
    fields = {"entry_script": str(SCRIPT), "error_threshold": 0, "output_action": "append_row"}
    try:
        compile(f"def {name}(): pass", "", "exec")
        is_name = isinstance(name, str) and name.strip() == name and not set("([") & set(name)
    except (SyntaxError, ValueError):
        is_name = False
    if is_name or name is None:
        assert ParallelRunConfig(**fields, entry_function=name).entry_function == name
    else:
        with pytest.raises(ValueError, match=r"entry_function is .*; expected the name of a function"):
            ParallelRunConfig(**fields, entry_function=name)


def test_a_yaml_file_keeps_the_name(tmp_path):
    step = module_of(SCRIPT).tells
    step.parallel_run_config.save_to_yaml(tmp_path / "c.yml")
    assert ParallelRunConfig.load_yaml(tmp_path / "c.yml") == step.parallel_run_config


def test_run_script_runs_a_step_from_functions():
    """With its hooks; afterwards the decorator makes steps again."""
    result = run_script(SCRIPT, ["a", "b"], mini_batch_size=1, entry_function="tells")
    assert [row.split()[:2] for row in result.rows] == [["begin", "0"], ["begin", "1"]]
    assert not current.is_script
    assert isinstance(as_step(score), FunctionStep)


def test_a_file_that_fails_while_imported_leaves_the_decorator_as_it_was(tmp_path):
    (tmp_path / "wrong.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        run_script(tmp_path / "wrong.py", ["a"], entry_function="score")
    assert not current.is_script


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "it lacks gone, the entry_function; expected def gone.* top level .*there are: calls_a_step, later, tells"),
        ("plain", "its plain, the entry_function, is a function; expected def plain.* with the decorator"),
        ("CALLS", "its CALLS, the entry_function, is a list"),
    ],
)
def test_a_file_without_the_step_is_an_error(name, message):
    """Such as one that was renamed since the run was planned."""
    with pytest.raises(NotAnEntryScript, match=message):
        run_script(SCRIPT, ["a"], entry_function=name)


def test_a_step_does_not_run_in_its_own_processes():
    """Each would start processes that start steps."""
    with pytest.raises(NotAnEntryScript, match="the step tells was called in one of its own processes; call it in a flow"):
        run_script(SCRIPT, ["a"], entry_function="calls_a_step")


@pytest.mark.parametrize("hook", ["init", "shutdown"])
def test_a_process_refuses_a_second_hook_too(hook):
    """A configuration in YAML may name functions that no flow has imported."""
    step = StepFunctions(score)
    getattr(step, hook)(load)
    with pytest.raises(NotAnEntryScript, match=f"score.{hook} is already load"):
        getattr(step, hook)(load)


HOOKS = [
    {kind: function for kind, function in zip(("init", "shutdown"), functions, strict=True) if function}
    for functions in product((None, load, connect), repeat=2)
]


def found_by_a_process(here, flow_hooks):
    """Return the functions that a process finds if its file registers *here*; *flow_hooks* are those of the flow process."""
    module = ModuleType("steps")
    module.__file__, module.score = "/code/steps.py", StepFunctions(score)
    for kind, function in here.items():
        getattr(module.score, kind)(function)
    return functions_of(module, "score", flow_hooks)


@pytest.mark.parametrize(
    "there", HOOKS, ids=lambda hooks: " ".join(f"{kind}={function.__name__}" for kind, function in hooks.items()) or "none"
)
def test_a_process_starts_only_with_the_hooks_of_the_flow(there):
    """For all combinations; otherwise a step would run without init(), silently."""
    step = as_step(score)
    for kind, function in there.items():
        getattr(step, kind)(function)
    for here in HOOKS:
        functions = {"run": score, **here}
        assert found_by_a_process(here, None) == functions  # the flow process has not imported the file
        differing = [kind for kind in ("init", "shutdown") if there.get(kind) is not here.get(kind)]
        if not differing:
            assert found_by_a_process(here, hook_names(step._functions)) == functions
            continue
        kind = differing[0]
        before, after = (f"{hooks[kind].__name__}()" if kind in hooks else "not registered" for hooks in (there, here))
        message = f"score.{kind} is {before} in the flow process but {after} in this process, which imports /code/steps.py"
        with pytest.raises(NotAnEntryScript, match=re.escape(message)):
            found_by_a_process(here, hook_names(step._functions))
