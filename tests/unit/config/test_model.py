"""Every rule of the configuration, by case and by property."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_parallel_run._units import format_size, parse_size
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.where import ComputeTarget, Environment

CASES = [json.loads(line) for line in (Path(__file__).parents[1] / "data" / "config_cases.jsonl").read_text().splitlines()]


def wrong_fields(error):
    """Messages of a ValidationError by field."""
    return {part["loc"][0]: part["msg"] for part in error.errors()}


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "score.py"
    path.write_text("def run(mini_batch): return mini_batch\n")
    return path


def make(script, **fields):
    return ParallelRunConfig(**{"entry_script": str(script), "error_threshold": 10, "output_action": "append_row", **fields})


@pytest.mark.parametrize("case", CASES, ids=lambda case: json.dumps(case["kwargs"]))
def test_each_case_is_accepted_or_rejected(case, script):
    """Each case of the data file says whether we accept the value, and some with which result."""
    if case["ours"] == "reject":
        with pytest.raises(ValueError) as caught:
            make(script, **case["kwargs"])
        assert any(field in str(caught.value) for field in case["kwargs"])
    else:
        config = make(script, **case["kwargs"])
        if "mini_batch_size" in case:
            assert config.mini_batch_size == case["mini_batch_size"]


def test_three_fields_suffice(script):
    """Everything else has a default that works on one machine."""
    config = make(script)
    assert (config.node_count, config.process_count_per_node, config.run_max_try) == (1, None, 3)
    assert (config.run_invocation_timeout, config.init_timeout, config.retry_delay_seconds) == (60, 600, 0)
    assert config.mini_batch_size_for("file") == 10
    assert config.mini_batch_size_for("tabular") == 1_048_576
    assert config.result_file_name == "parallel_run_step.txt"
    assert config.result_format == "text"


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"a b": "/m"}, "has the name 'a b'; expected a mapping of names"),
        ({"../a": "/m"}, "has the name '../a'"),
        ({"a:../b": "/m"}, "has the name"),
        ({1: "/m"}, "has the name 1"),
        ({"a": ""}, "models['a'] is ''; expected a path on every node, not a URL"),
        ({"a": "s3://b/m"}, "not a URL"),
        ({"a": None}, "models['a'] is None"),
        (["/m"], "expected a mapping of names"),
    ],
    ids=str,
)
def test_wrong_models_are_errors(script, models, message):
    """The error names the entry and what is expected."""
    with pytest.raises(ValidationError) as caught:
        make(script, models=models)
    assert message in wrong_fields(caught.value)["models"]


def test_models_are_absolute_paths(script, tmp_path, monkeypatch):
    """A run may be resumed from another folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    models = {"a": "m.pkl", "a:2": Path("/x/y"), "b.c-d_1": "~/m"}
    assert make(script, models=models).models == {"a": f"{tmp_path}/m.pkl", "a:2": "/x/y", "b.c-d_1": "/home/me/m"}
    assert make(script, models=None).models == {}


def test_partition_keys_may_be_json_in_a_string(script):
    """A parameter of a flow or pipeline may hold only a string."""
    assert make(script, partition_keys='["store", "day"]').partition_keys == ["store", "day"]
    for text in ("store", '"store"', '["a", "a"]', "[]", '["a", 1]', '{"a": 1}', "[" * 100_000):
        with pytest.raises(ValueError, match=r"partition_keys is .*; expected a list of one or more different key names"):
            make(script, partition_keys=text)


@pytest.mark.parametrize("field", ["run_max_try", "run_invocation_timeout", "logging_level", "environment_variables"])
def test_none_means_the_default_where_azure_allows_it(script, field):
    """Azure writes None for a field that is not set."""
    assert make(script, **{field: None}) == make(script)


def test_required_fields_are_required():
    """The error names every missing field."""
    with pytest.raises(ValidationError) as caught:
        ParallelRunConfig()
    assert set(wrong_fields(caught.value)) == {"entry_script", "error_threshold", "output_action"}


def test_an_error_names_the_model_as_python_knows_it(script):
    """The labels of a form are no names in Python."""
    for build, name in (
        (lambda: make(script, node_count=0), "ParallelRunConfig"),
        (lambda: Environment(python=3), "Environment"),
        (lambda: ComputeTarget(address="h"), "ComputeTarget"),
    ):
        with pytest.raises(ValidationError, match=f"1 validation error for {name}\n"):
            build()


def test_one_error_names_every_wrong_field_and_value(script):
    """Fixing fields one error at a time would be tedious."""
    with pytest.raises(ValidationError) as caught:
        make(script, node_count=0, run_max_try="3", mini_batch_size="1.5")
    wrong = wrong_fields(caught.value)
    assert set(wrong) == {"node_count", "run_max_try", "mini_batch_size"}
    assert "node_count is 0; expected an integer, 1 or more" in wrong["node_count"]
    assert "'3'" in wrong["run_max_try"]


@pytest.mark.parametrize(
    "field",
    ["error_threshold", "node_count", "run_max_try", "run_invocation_timeout", "allowed_failed_count", "process_memory_limit"],
)
@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), b"1", [1]])
def test_a_bool_or_nan_is_not_a_number(script, field, value):
    """True is an int in Python, but a mistake in a configuration."""
    with pytest.raises(ValueError, match=field):
        make(script, **{field: value})


def test_unknown_fields_are_errors(script):
    """A misspelt field would otherwise do nothing, silently."""
    with pytest.raises(ValueError, match="run_max_tries"):
        make(script, run_max_tries=3)


def test_a_config_cannot_be_changed(script):
    """A running step must not see it change."""
    with pytest.raises(ValidationError):
        make(script).node_count = 4


@pytest.mark.parametrize("name", ["tasks/score.py", " tasks/score.py ", "tasks.score", "./tasks/score.py"])
def test_sub_paths_and_dotted_names_find_the_script(tmp_path, name):
    """Stripped, relative to source_directory."""
    (tmp_path / "tasks").mkdir()
    script = tmp_path / "tasks" / "score.py"
    script.write_text("")
    config = make(name, source_directory=str(tmp_path))
    assert config.script_path == script.resolve()
    assert config.source_path == tmp_path.resolve()


def test_a_script_outside_source_directory_is_refused(tmp_path, script):
    """By '..', by an absolute path and through a link."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.py").symlink_to(script)
    for name in ("../score.py", str(script), "link.py"):
        with pytest.raises(ValueError, match="outside source_directory"):
            make(name, source_directory=str(inside))


def test_a_missing_script_or_folder_is_named(tmp_path):
    """Immediately, when the configuration is created."""
    with pytest.raises(ValueError, match=r"entry_script is 'none.py', which does not exist"):
        make("none.py", source_directory=str(tmp_path))
    with pytest.raises(ValueError, match="source_directory is"):
        make("none.py", source_directory=str(tmp_path / "none"))


def test_summary_only_rejects_a_file_name(script):
    """summary_only writes no result file."""
    with pytest.raises(ValueError, match="append_row_file_name"):
        make(script, output_action="summary_only", append_row_file_name="x.txt")
    assert make(script, output_action="Summary_Only").result_file_name is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"append_row_file_name": "a.jsonl"}, "jsonl"),
        ({"append_row_file_name": "a.PARQUET"}, "parquet"),
        ({"append_row_file_name": "a.orc"}, "orc"),
        ({"append_row_file_name": "a.csv"}, "text"),
        ({"append_row_file_name": "a.jsonl", "append_row_format": "csv"}, "csv"),
    ],
)
def test_the_format_follows_the_file_name_unless_it_is_given(script, fields, expected):
    """The extension .csv also means text, so csv must be explicit."""
    assert make(script, **fields).result_format == expected


def test_values_of_environment_variables_are_never_shown(script):
    """Not in repr, str or an error; keys are."""
    config = make(script, environment_variables={"TOKEN": "canary-5"})
    assert "canary-5" not in repr(config)
    assert "canary-5" not in str(config)
    with pytest.raises(ValueError) as caught:
        make(script, environment_variables={"TOKEN": "canary-5", "B": 7}, node_count=0)
    assert "canary-5" not in str(caught.value)
    assert "'B'" in str(caught.value)


def test_environment_and_compute_target_take_their_models(script):
    """Or their values as plain mappings, as YAML and forms give them."""
    config = make(script, environment={"requirements": ["numpy"]}, compute_target={"address": "tls://h:1"})
    assert config.environment == Environment(requirements=["numpy"])
    assert config.compute_target == ComputeTarget(address="tls://h:1")
    with pytest.raises(ValueError, match="one of address"):
        make(script, compute_target={"address": "tls://h:1", "scheduler_file": "x"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"requirements": "six"}, "requirements is 'six'; expected a list of strings"),
        ({"requirements": ["six", ""]}, "requirements has ''; expected non-empty strings"),
        ({"requirements": ["six", " "]}, "requirements has ' '"),
        ({"requirements": ["six\n--index-url https://elsewhere"]}, "without newlines and control characters"),
        ({"requirements": ["six\0"]}, "requirements has"),
        ({"requirements": [7]}, "requirements has 7"),
        ({"python": 3.9}, "python is 3.9; expected a version from 3.9 on as a string"),
        ({"python": "3.8"}, "python is '3.8'; expected a version from 3.9 on"),
        ({"python": "python3.9"}, "python is 'python3.9'"),
        ({"python": ""}, "python is ''"),
        ({"conda_file": "none.yml"}, "conda_file is 'none.yml'; expected an existing file, or None"),
        ({"conda_file": "."}, "conda_file is '.'"),
        ({"conda_file": __file__, "python": "3.11"}, "python is '3.11', but conda_file determines the Python version"),
        ({"name": 7}, "name is 7; expected a string, or None"),
        ({"packages": ["six"]}, "packages"),
    ],
)
def test_a_wrong_environment_is_an_error(script, fields, message):
    """The error names field, value and what is expected; alone and inside a configuration."""
    for build in (lambda: Environment(**fields), lambda: make(script, environment=fields)):
        with pytest.raises(ValueError) as caught:
            build()
        assert message in str(caught.value)


def test_an_environments_paths_mean_the_same_everywhere(tmp_path, monkeypatch):
    """Paths become absolute, versions do not; ``~`` is the home of the machine that builds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conda.yml").write_text("dependencies: [python]\n")
    assert Environment(conda_file="conda.yml").conda_file == str(tmp_path / "conda.yml")
    assert Environment(python="venv/bin/python").python == str(tmp_path / "venv/bin/python")
    for python in ("3.9", "3.11.7", "/usr/bin/python3", "~/venv/bin/python", None):
        assert Environment(python=python).python == python


@given(st.integers(1, 10**12), st.sampled_from(["", "KB", "kb", "Mb", "GB"]))
def test_sizes_are_1024_based(number, unit):
    """In any case of the unit."""
    factor = {"": 1, "KB": 1024, "MB": 1024**2, "GB": 1024**3}[unit.upper()]
    assert parse_size(f"{number}{unit}") == number * factor


@given(st.text())
def test_any_other_text_is_not_a_size(text):
    """A size has only ASCII digits and one of three units."""
    try:
        number = parse_size(text)
    except ValueError:
        return
    assert text.isascii()
    assert text[0].isdigit()
    assert number >= 0
    assert format_size(number)
