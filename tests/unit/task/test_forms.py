"""The form of the ready-made flow: help texts, accepted values, errors."""

import json
from pathlib import Path

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate

from prefect_parallel_run import FileDataset, ParallelRunConfig, TabularDataset
from prefect_parallel_run.flows import parallel_run, parallel_run_from_yaml
from prefect_parallel_run.task.forms import configuration, dataset, side_inputs_by_name

CASES = [json.loads(line) for line in (Path(__file__).parents[1] / "data" / "config_cases.jsonl").read_text().splitlines()]
SCHEMA = parameter_schema(parallel_run).model_dump_for_openapi()
OURS = {
    name: made for name, made in SCHEMA["definitions"].items() if name != "DaskComputeTarget"
}  # it is a choice of saved ones


@pytest.fixture
def config(tmp_path):
    (tmp_path / "score.py").write_text("def run(mini_batch): return mini_batch\n")
    return {"entry_script": str(tmp_path / "score.py"), "error_threshold": 0, "output_action": "append_row"}


def sent(config, **parameters):
    return {"name": "score", "inputs": [{"files": ["data"]}], "output": "out", "config": config, **parameters}


def refused(parameters):
    """Return the errors of Prefect's server for parameters, as the form shows them."""
    return [f"{error.json_path}: {error.message}" for error in validate(parameters, SCHEMA)]


def fields():
    models = {"": SCHEMA, **OURS}
    return [(model, name, field) for model, made in models.items() for name, field in made["properties"].items()]


@pytest.mark.parametrize(("model", "name", "field"), fields())
def test_every_field_has_a_label_and_a_help_text(model, name, field):
    """A label is not the field's name, a help text is a sentence, and choices are named by what they are."""
    assert field["title"] != name
    assert field["title"][0].isupper()
    assert len(field["description"]) > 10
    assert field["description"].endswith((".", "…"))
    for choice in field.get("anyOf", []):
        assert "$ref" in choice or choice["title"] not in ("", None)


@pytest.mark.parametrize(("model", "name", "field"), fields())
def test_optional_fields_have_no_default(model, name, field):
    """A form sends defaults, and None would be a tab; so it opens with a field to fill in, and sends nothing."""
    assert field.get("default", 0) not in (None, {})
    kinds = [choice.get("type") for choice in field.get("anyOf", [])]
    assert "null" not in kinds[:-1]


def test_required_fields_come_first():
    """And rarely changed fields last."""
    names = list(SCHEMA["definitions"]["Settings"]["properties"])
    assert names[:3] == SCHEMA["definitions"]["Settings"]["required"]
    assert names[-2:] == ["speculative_execution", "dashboard"]
    assert set(names) == set(ParallelRunConfig.model_fields)
    assert list(SCHEMA["properties"])[:3] == ["name", "inputs", "output"]


def test_models_have_a_label():
    """It names the tab of a choice."""
    labels = {name: SCHEMA["definitions"][name]["title"] for name in ("Settings", "Environment", "ComputeTarget")}
    assert labels == {"Settings": "Settings", "Environment": "Packages", "ComputeTarget": "Cluster"}


def test_types_are_what_people_type():
    """Numbers are numbers, choices are selects, a size is a number or a text with a unit."""
    settings = SCHEMA["definitions"]["Settings"]["properties"]
    assert settings["process_count_per_node"]["type"] == settings["node_count"]["type"] == "integer"
    assert settings["run_invocation_timeout"]["type"] == settings["allowed_failed_percent"]["type"] == "number"
    assert settings["output_action"]["enum"] == ["append_row", "summary_only"]
    assert [choice["type"] for choice in settings["mini_batch_size"]["anyOf"]] == ["integer", "string", "null"]


ACCEPTED = [case["kwargs"] for case in CASES if case["ours"] == "accept"]


@pytest.mark.parametrize("kwargs", ACCEPTED, ids=json.dumps)
def test_every_configuration_can_be_a_parameter(kwargs, config):
    """Prefect's server accepts every valid configuration as JSON, and the flow receives an equal one."""
    made = ParallelRunConfig(**{**config, **kwargs})
    written = made.model_dump(mode="json")
    assert refused(sent(written)) == []
    assert configuration(written) == made
    assert configuration(made) is made


def test_a_yaml_file_is_a_configuration(config, tmp_path):
    """By its path, in a form of its own: an error about two choices would only say that the value matches neither."""
    made = ParallelRunConfig(**config, node_count=3)
    made.save_to_yaml(tmp_path / "config.yaml")
    schema = parameter_schema(parallel_run_from_yaml).model_dump_for_openapi()
    parameters = {"name": "score", "inputs": [{"files": ["data"]}], "config_file": str(tmp_path / "config.yaml")}
    assert validate(parameters, schema) == []
    assert validate({**parameters, "config_file": ""}, schema)
    shared = SCHEMA["properties"].keys() - {"config"}
    assert schema["properties"].keys() == shared | {"config_file"}
    assert all(schema["properties"][name]["title"] == SCHEMA["properties"][name]["title"] for name in shared)
    assert configuration(str(tmp_path / "config.yaml")) == made


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("error_threshold", -2),
        ("error_threshold", "3"),
        ("output_action", "append"),
        ("node_count", 0),
        ("process_count_per_node", 1.5),
        ("mini_batch_size", 0),
        ("mini_batch_size", "10 MB"),
        ("mini_batch_size", "0KB"),
        ("allowed_failed_percent", 101),
        ("run_invocation_timeout", 0),
        ("append_row_file_name", "a/b"),
        ("append_row_file_name", ".."),
        ("append_row_format", "xml"),
        ("partition_keys", []),
        ("entry_script", ""),
        ("entry_function", "a b"),
        ("environment_variables", {"A": 1}),
        ("run_max_tries", 3),
    ],
)
def test_wrong_values_are_refused_at_the_form(config, field, value):
    """By the server, at their field; the configuration rejects them too."""
    (said,) = refused(sent({**config, field: value}))
    assert said.startswith("$.config")
    assert len(said) < 250, "of the field, not of the whole configuration"
    with pytest.raises(ValueError, match=field):
        configuration({**config, field: value})


@pytest.mark.parametrize("name", ["...", "a.b", ".hidden", "..a", "x" * 255])
def test_odd_file_names_are_accepted_as_by_the_configuration(config, name):
    """The form's pattern says the same as the validator."""
    assert refused(sent({**config, "append_row_file_name": name})) == []
    assert configuration({**config, "append_row_file_name": name}).result_file_name == name


@pytest.mark.parametrize(
    ("target", "is_accepted"),
    [
        ("local", True),
        ({"address": "tls://host:8786"}, True),
        ({"$ref": "1045e876-8fcd-44e1-b875-5df0f1e09afc"}, True),
        ({"$ref": {"block_document_id": "1045e876-8fcd-44e1-b875-5df0f1e09afc"}}, True),
        ({}, True),  # a cluster whose fields are all empty; the flow says that one of three is missing
        ({"adress": "tls://host:8786"}, False),
        (1, False),
    ],
)
def test_a_compute_target_is_a_name_a_cluster_or_a_saved_block(config, target, is_accepted):
    """References are accepted in both forms that Prefect's UIs send."""
    assert (refused(sent({**config, "compute_target": target})) == []) is is_accepted


INPUTS = [
    (
        {"files": ["/data"], "partition_format": "{user}/*.wav", "name": "waves", "allow_empty": True},
        FileDataset.from_files(["/data"], partition_format="{user}/*.wav", allow_empty=True).as_named_input("waves"),
    ),
    ({"parquet_files": ["/a", "/b"]}, TabularDataset.from_parquet_files(["/a", "/b"])),
    ({"arrow_files": ["s3://bucket/a"]}, TabularDataset.from_arrow_files(["s3://bucket/a"])),
    ({"orc_files": ["/a"]}, TabularDataset.from_orc_files(["/a"])),
    ({"delta_files": ["/a"]}, TabularDataset.from_delta_table("/a")),
    ({"delta_files": ["/a"], "version": 3, "keep_columns": ["x"]}, TabularDataset.from_delta_table("/a", 3).keep_columns("x")),
    ({"iceberg_files": ["a.b.c"]}, TabularDataset.from_iceberg_table("a.b.c")),
    (
        {"iceberg_files": ["a.b.c"], "version": str(2**63 - 1), "drop_columns": ["x"]},
        TabularDataset.from_iceberg_table("a.b.c", 2**63 - 1).drop_columns("x"),
    ),
    (
        {"json_lines_files": ["/a"], "encoding": "latin-1", "compression": "none"},
        TabularDataset.from_json_lines_files(["/a"], encoding="latin-1", compression=None),
    ),
    ({"delimited_files": ["/a"]}, TabularDataset.from_delimited_files(["/a"])),
    (
        {"delimited_files": ["/a"], "delimiter": r"\t", "quote": "none", "escape": "\\", "decimal": ",", "header": False},
        TabularDataset.from_delimited_files(["/a"], delimiter="\t", quote="", escape="\\", decimal=",", header=False),
    ),
    (
        {"delimited_files": ["/a"], "column_types": {"id": "string", "n": "Int64"}, "na_values": ["n.v.", "-"]},
        TabularDataset.from_delimited_files(["/a"], column_types={"id": "string", "n": "Int64"}, na_values=["n.v.", "-"]),
    ),
    ({"parquet_files": ["/a"], "keep_columns": ["x", "y"]}, TabularDataset.from_parquet_files(["/a"]).keep_columns(["x", "y"])),
    ({"delimited_files": ["/a"], "drop_columns": ["x"]}, TabularDataset.from_delimited_files(["/a"]).drop_columns("x")),
    (
        {"delimited_files": ["/a"], "keep_default_na": False},
        TabularDataset.from_delimited_files(["/a"], keep_default_na=False),
    ),
]


@pytest.mark.parametrize(("value", "expected"), INPUTS, ids=lambda item: json.dumps(item) if isinstance(item, dict) else "")
def test_inputs_become_datasets(value, expected, config):
    """Each is one kind and no other, with the options of its kind."""
    assert refused(sent(config, inputs=[value])) == []
    choices = SCHEMA["properties"]["inputs"]["items"]["anyOf"]
    assert len([choice for choice in choices if not validate(value, SCHEMA | only(choice))]) == 1
    assert dataset(0, value) == expected


def only(choice):
    """A schema of one of the definitions."""
    return {"type": "object", "properties": {}, "required": [], "allOf": [choice]}


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"paths": ["a"]},
        {"files": []},
        {"files": [""]},
        {"files": ["a"], "delimiter": ","},
        {"files": ["a"], "parquet_files": ["b"]},
        {"delimited_files": ["a"], "delimiter": "ab"},
        {"delimited_files": ["a"], "column_types": {"id": "text"}},
        {"files": ["a"], "keep_columns": ["x"]},
        {"delta_files": ["a", "b"]},
        {"delta_files": ["a"], "version": -1},
        {"iceberg_files": ["a.b.c", "d.e.f"]},
        {"iceberg_files": ["a.b.c"], "version": "newest"},
        {"iceberg_files": ["orders"]},
        {"files": ["a"], "name": "1st"},
    ],
)
def test_wrong_inputs_are_refused_with_their_index(value, config):
    """By the form, and by the flow if it is called without one, in terms of the input's kind."""
    assert refused(sent(config, inputs=[value]))
    with pytest.raises(ValueError, match=r"inputs\[1\]") as caught:
        dataset(1, value)
    assert len(str(caught.value).splitlines()) == 1


def test_datasets_and_paths_are_unchanged():
    """The flow can be called from Python with the inputs of a step."""
    made = FileDataset.from_files(["/data"])
    assert dataset(0, made) is made
    assert dataset(0, "/data") == "/data"


def test_side_inputs():
    """A list of names and paths in the form, a mapping in Python."""
    assert side_inputs_by_name([{"name": "model", "path": "/m"}]) == side_inputs_by_name({"model": "/m"}) == {"model": "/m"}
    with pytest.raises(ValueError, match=r"side_inputs\[1\] has the name 'model'"):
        side_inputs_by_name([{"name": "model", "path": "/m"}, {"name": "model", "path": "/n"}])
    with pytest.raises(ValueError, match=r"side_inputs\[0\].name"):
        side_inputs_by_name([{"name": "no name", "path": "/m"}])


def test_an_error_names_every_wrong_field_and_no_secret(config):
    """Prefect's own validation would log all parameters."""
    wrong = {**config, "node_count": 0, "run_max_try": "3", "environment_variables": {"TOKEN": "s3cr3t", "N": 1}}
    with pytest.raises(ValueError, match="config") as caught:
        configuration(wrong)
    said = str(caught.value).splitlines()
    assert said[0] == "config.node_count: node_count is 0; expected an integer, 1 or more"
    assert {line.partition(":")[0] for line in said} == {
        "config.node_count",
        "config.run_max_try",
        "config.environment_variables",
    }
    assert "s3cr3t" not in str(caught.value)
    assert not parallel_run.should_validate_parameters
