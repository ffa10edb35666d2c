"""Imports point one way, and nothing heavy is imported before it is needed."""

import ast
import doctest
import importlib
import pickle
import pkgutil
import sys
from pathlib import Path

import pytest

import prefect_parallel_run
from prefect_parallel_run import errors
from prefect_parallel_run.child import rows
from prefect_parallel_run.output import formats as output_formats

from ..interpreter import facts_of

PACKAGE = Path(prefect_parallel_run.__file__).parent
ORDER = [
    "child",
    "_units",
    "errors",
    "_atomic",
    "_locks",
    "_threads",
    "models",
    "_rate_limit",
    "storage",
    "result",
    "config",
    "environments",
    "datasets",
    "planning",
    "runs",
    "node",
    "compute",
    "dispatch",
    "output",
    "monitoring",
    "execution",
    "task",
    "azureml",
    "step",
    "function_step",
    "functions",
    "testing",
    "flows",
    "cli",
]
INSIDE = {  #: the same within rooms that hold one thing after another
    "config": [
        "validation",
        "base",
        "where",
        "yaml_reader",
        "yaml_file",
        "model",
    ],
    "runs": [
        "commands",
        "run_directory",
        "events",
        "ledger_schema",
        "ledger",
        "executions",
        "failures",
        "mirror",
        "source_files",
        "spec",
        "fingerprint",
        "integrity",
        "create",
        "resolve",
    ],
    "planning": ["plan", "planner", "inputs"],
    "execution": [
        "control",
        "execute",
        "runner",
        "verify",
        "replay",
        "estimate",
        "trial",
    ],
    "task": ["cancellation", "result_serializer", "caching", "task_names", "mapping", "temporary_server", "forms"],
}
HEAVY = {
    "prefect": {
        *("step", "function_step", "flows", "task", "cli.step_flow", "compute.blocks"),
        *("monitoring.artifacts", "monitoring.prefect_events"),
    },
    "dask": {"compute", "dispatch.dispatcher", "node"},
    "distributed": {"compute", "dispatch", "node.rpc"},
    "jinja2": {"monitoring.report.page"},
}
STANDARD_LIBRARY_PLUS = {"numpy", "pandas", "pyarrow", "fsspec"}  # inside functions: for tables, and for stores


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"), path


def imports(path):
    """Absolute names imported in a file, those for the type checker alone left out."""
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped.update(ast.walk(node))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def test_imports_point_one_way():
    """Down the lists above."""
    wrong = []
    for name, path in modules():
        room, _, place = name.partition(".")
        if name in ("__init__", "py"):
            continue
        for imported in imports(path):
            if not imported.startswith("prefect_parallel_run."):
                continue
            other, _, inner = imported.removeprefix("prefect_parallel_run.").partition(".")
            if other != room:
                is_down = ORDER.index(other) < ORDER.index(room)
            else:
                order = INSIDE.get(room)
                is_down = order is None or order.index(inner) < order.index(place)
            if not is_down:
                wrong.append(f"{name} imports {imported}")
    assert not wrong


def test_every_room_has_its_place():
    """So that a new one is put somewhere on purpose."""
    names = {name for name, _ in modules()} - {"__init__"}
    assert {name.split(".")[0] for name in names} == set(ORDER)
    for room, order in INSIDE.items():
        assert {name.partition(".")[2] for name in names if name.startswith(f"{room}.")} == set(order)


def test_prefect_and_dask_stay_in_their_rooms():
    """Most of the package can be read and tested without them."""
    wrong = []
    for name, path in modules():
        for imported in imports(path):
            allowed = HEAVY.get(imported.split(".")[0])
            if allowed is not None and not any(name == room or name.startswith(f"{room}.") for room in allowed):
                wrong.append(f"{name} imports {imported}")
    assert not wrong


def test_the_child_depends_on_nothing_of_ours():
    """It runs in the user's interpreter, where our package need not be."""
    wrong = []
    for name, path in modules():
        if name.split(".")[0] == "child":
            for imported in imports(path):
                root = imported.split(".")[0]
                is_known = root in sys.stdlib_module_names or root in STANDARD_LIBRARY_PLUS
                if not is_known and imported != "prefect_parallel_run.child.main_loop":
                    wrong.append(f"{name} imports {imported}")
    assert not wrong


def test_importing_the_package_imports_nothing_heavy():
    """A child, and Prefect's own look-up of plugins, must not wait."""
    code = "import sys, prefect_parallel_run\nfacts = {'loaded': list(sys.modules), 'names': dir(prefect_parallel_run)}\n"
    facts = facts_of(code)
    assert not {"prefect", "dask", "distributed", "pandas", "pyarrow", "pydantic", "yaml"}.intersection(facts["loaded"])
    assert "ParallelRunStep" in facts["names"]


def test_a_node_imports_nothing_that_only_the_flow_process_needs():
    """Its children start as soon as it has imported what follows."""
    code = (
        "import sys\n"
        "from prefect_parallel_run.node.rpc import prepare_node\n"
        "from prefect_parallel_run.node.settings import NodeSettings\n"
        "facts = {'loaded': list(sys.modules)}\n"
    )
    assert not {"prefect", "pandas", "pyarrow", "pydantic"}.intersection(facts_of(code)["loaded"])


def test_every_public_name_can_be_had():
    """And nothing else."""
    for name in prefect_parallel_run.__all__:
        assert getattr(prefect_parallel_run, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        prefect_parallel_run.nothing  # noqa: B018  the access is the test


@pytest.mark.parametrize(
    "error",
    [
        errors.LimitExceededError("error_threshold", 1, 2, "/run", "mini-batch 0: X: y"),
        errors.EntryScriptError("a.py", "it could not be imported", "Traceback"),
        errors.InputError("a.csv", "is missing"),
        errors.NoRunError("/run", "does not exist"),
        errors.InputChangedError("/run", ("a changed", "b is gone")),
        errors.OutputError("/out", "cannot be written"),
        errors.RunFileError("/run/plan.parquet", "cannot be read"),
        errors.RowsDifferError("/out", "column 'a' is text", 2, ("a", "b", "c", "d"), 0, ("e",)),
        errors.RunLockedError("/run", "process 1", "host"),
        errors.NothingSucceededError(3, "/run", "mini-batch 0: X: y"),
        errors.ComputeTargetError("local", "gone"),
        errors.EnvironmentSetupError("/venv", "no interpreter"),
        errors.PrefectHomeError("/home", "Permission denied"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error):
    """With their facts and their words: Prefect sends them between processes."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (vars(again), str(again)) == (vars(error), str(error))
    assert isinstance(error, errors.ParallelRunError)


@pytest.mark.parametrize("name", [name for name, path in modules() if ">>> " in path.read_text()])
def test_examples_in_docstrings_are_true(name):
    """Every one of them."""
    module = importlib.import_module(f"prefect_parallel_run.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_every_module_says_what_it_is():
    """In its first line."""
    found = [name for _, name, _ in pkgutil.walk_packages([str(PACKAGE)], "prefect_parallel_run.")]
    assert len(found) > 40
    for _, path in modules():
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_every_output_format_has_both_halves():
    """The child encodes rows, the reduction publishes them."""
    assert tuple(output_formats.OUTPUT_FORMATS) == rows.ROW_FORMATS
    for name in rows.ROW_FORMATS:
        assert isinstance(rows.row_format(name), rows.RowFormat)
