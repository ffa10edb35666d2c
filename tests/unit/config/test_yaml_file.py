"""The configuration as a YAML file: saving, loading, and errors with their line."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.where import ComputeTarget, Environment

HEAD = "parallel_run_config:\n  entry_script: score.py\n  source_directory: {folder}\n  error_threshold: 1\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "score.py").write_text("")
    return tmp_path


def load(folder, body, head=HEAD + "  output_action: append_row\n"):
    path = folder / "config.yaml"
    path.write_text(head.format(folder=folder) + body)
    return ParallelRunConfig.load_yaml(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    fields=st.fixed_dictionaries(
        {},
        optional={
            "node_count": st.integers(1, 10**6),
            "mini_batch_size": st.sampled_from([1, "5", "10MB"]),
            "description": st.text(st.characters(exclude_categories=["Cs", "Cc"])),
            "run_invocation_timeout": st.floats(0.001, 1e9),
            "allowed_failed_percent": st.floats(0, 100),
            "append_row_file_name": st.sampled_from(["é.csv", "a b.txt", "no", "010", "x.jsonl"]),
            "append_row_header": st.booleans(),
            "models": st.sampled_from([{"mnist": "/m/1", "mnist:2": "/m/no"}, {}]),
            "logging_level": st.sampled_from(["debug", "WARNING"]),
            "environment": st.sampled_from(
                [
                    "/usr/bin/python3",
                    Environment(requirements=["a==1"], name="n"),
                    Environment(requirements=["a", "é @ file:///é"], python="3.10"),
                    Environment(python="/usr/bin/python3"),
                    Environment(conda_file=__file__, requirements=["a"]),
                    Environment(),
                ]
            ),
            "compute_target": st.sampled_from([ComputeTarget(cluster_class="a.B", cluster_kwargs={"n": 1, "x": None})]),
            "process_memory_limit": st.sampled_from(["4GB", 10**9]),
        },
    )
)
def test_a_round_trip_loses_nothing(folder, fields):
    """Loading a saved configuration returns an equal one."""
    config = ParallelRunConfig(
        entry_script="score.py", source_directory=str(folder), error_threshold=-1, output_action="append_row", **fields
    )
    config.save_to_yaml(folder / "round.yaml")
    assert ParallelRunConfig.load_yaml(folder / "round.yaml") == config


def test_options_of_to_csv_make_a_round_trip(folder):
    """Tabs, backslashes and percent signs too."""
    options = {"sep": "\t", "escapechar": "\\", "float_format": "%.3f", "header": ["é", "no"], "index": True, "quoting": 3}
    fields = {"error_threshold": -1, "output_action": "append_row", "append_row_csv_options": options}
    config = ParallelRunConfig(entry_script="score.py", source_directory=str(folder), **fields)
    config.save_to_yaml(folder / "round.yaml")
    assert ParallelRunConfig.load_yaml(folder / "round.yaml") == config


def test_values_of_environment_variables_are_written_as_references(folder, monkeypatch):
    """They are secrets: the file names them, the process that loads it has them."""
    config = load(folder, "").model_copy(update={"environment_variables": {"TOKEN": "canary-7", "B": "${TOKEN}"}})
    config.save_to_yaml(folder / "saved.yaml")
    assert "canary-7" not in (folder / "saved.yaml").read_text()
    with pytest.raises(ValueError, match=r"environment_variables\['TOKEN'\] refers to TOKEN, which is not set"):
        ParallelRunConfig.load_yaml(folder / "saved.yaml")
    monkeypatch.setenv("TOKEN", "canary-7")
    assert ParallelRunConfig.load_yaml(folder / "saved.yaml").environment_variables == {"TOKEN": "canary-7", "B": "canary-7"}


def test_azures_signature_and_field_name_work(folder):
    """load_yaml(workspace, path), and compute_target_name."""
    load(folder, "  compute_target_name: local\n")
    config = ParallelRunConfig.load_yaml(object(), folder / "config.yaml")
    assert config.compute_target == "local"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("  node_count: 0\n", "line 6: node_count"),
        ("  node_count: '2'\n", "line 6: node_count"),
        ("  run_max_tries: 3\n", "line 6: unknown field 'run_max_tries'"),
        ("  node_count: 010\n", "line 6: 010 is a number with a leading zero"),
        ("  run_invocation_timeout: 12:30:45\n", "line 6: 12:30:45"),
        ("  run_invocation_timeout: 1:30.5\n", "line 6: 1:30.5"),
        ("  description: no\n", "line 6: no is a word that YAML 1.1 reads"),
        ("  node_count: 1_000\n", "line 6: 1_000"),
        ("  description: 2020-01-01\n", "line 6: unexpected tag:yaml.org,2002:timestamp"),
        ("  node_count: 1\n  node_count: 2\n", "line 7: duplicate key 'node_count'"),
        ("  description: &a x\n  entry: *a\n", "line 7: aliases are not accepted"),
        ("  description: !!python/object/apply:os.system ['true']\n", "line 6: unexpected tag:yaml.org,2002:python"),
        ("  description: [\n", "not YAML"),
        ("  ? [a]\n  : b\n", "line 6: expected a string as key"),
        ("  environment_variables: {A: 1}\n", "line 6: environment_variables"),
        ("  environment: {python: 3.10}\n", "python is 3.1; expected a version"),
    ],
)
def test_errors_name_the_line(folder, body, message):
    """Unknown keys, wrong types, ambiguous YAML 1.1 values and hostile constructs."""
    with pytest.raises(ValueError) as caught:
        load(folder, body)
    assert message in str(caught.value)


def test_a_field_is_named_once_and_with_its_own_line(folder):
    """Also the script, which is checked after all fields."""
    with pytest.raises(ValueError, match=r"line 6: node_count is 0; expected ") as caught:
        load(folder, "  node_count: 0\n")
    assert "node_count: node_count" not in str(caught.value)
    (folder / "score.py").unlink()
    with pytest.raises(ValueError, match=r"line 2: entry_script is '.*', which does not exist"):
        load(folder, "")
    with pytest.raises(ValueError, match=r"line 6: set either partition_keys or mini_batch_size, not both"):
        load(folder, "  partition_keys: [a]\n  mini_batch_size: 5\n")


@pytest.mark.parametrize("text", ["", "[]\n", "other: {}\n", "parallel_run_config: 5\n"])
def test_a_file_of_another_kind_is_refused(folder, text):
    """A configuration is recognized by its root key."""
    (folder / "other.yaml").write_text(text)
    with pytest.raises(ValueError, match="line 1"):
        ParallelRunConfig.load_yaml(folder / "other.yaml")


def test_an_azure_environment_is_converted(folder):
    """Name, variables and pip requirements are used; one warning lists everything else."""
    body = """\
  environment:
    name: scoring
    version: '3'
    environmentVariables: {EXAMPLE: value}
    python:
      userManagedDependencies: false
      condaDependencies:
        dependencies:
        - python=3.8
        - pip: [azureml-core, pillow]
    docker: {enabled: true}
"""
    with pytest.warns(
        UserWarning, match=r"docker, conda dependency python=3.8, python.userManagedDependencies, azureml-core; azureml-core: "
    ):
        config = load(folder, body)
    assert config.environment == Environment(name="scoring", requirements=["pillow"])
    assert config.environment_variables == {"EXAMPLE": "value"}


AZURES_OWN = """\
parallel_run_config:
  append_row_file_name: null
  compute_target_name: cpu-cluster
  entry_script: score.py
  environment:
    databricks: {{eggLibraries: [], jarLibraries: []}}
    docker: {{arguments: [], baseImage: mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04, enabled: false}}
    environmentVariables: {{EXAMPLE_ENV_VAR: EXAMPLE_VALUE}}
    inferencingStackVersion: null
    name: batch_environment
    python:
      baseCondaEnvironment: null
      condaDependencies:
        channels: [anaconda, conda-forge]
        dependencies:
        - python=3.10.4
        - pip~=23.0
        - pip: [azureml-core, pillow==10.4]
        - scikit-learn=1.4
        name: azureml_1
      condaDependenciesFile: null
      interpreterPath: python
      userManagedDependencies: {managed}
    r: null
    spark: {{packages: [], precachePackages: true, repositories: []}}
    version: '1'
  error_threshold: 10
  logging_level: INFO
  mini_batch_size: '5'
  node_count: 2
  output_action: append_row
  process_count_per_node: null
  run_invocation_timeout: 60
  run_max_try: 3
  source_directory: {folder}
"""


def test_a_whole_file_of_azures_loads(folder):
    """Python version and pip requirements are used; conda packages, which pip may not have, are listed."""
    body = AZURES_OWN.format(folder=folder, managed="false")
    with pytest.warns(UserWarning, match="ignoring parts of Azure's environment") as caught:
        config = load(folder, "", head=body.replace("{", "{{").replace("}", "}}"))
    assert config.environment == Environment(name="batch_environment", requirements=["pillow==10.4"], python="3.10.4")
    assert (config.mini_batch_size, config.compute_target) == (5, "cpu-cluster")
    (warning,) = caught
    for left in ("databricks, docker, spark, conda dependency scikit-learn=1.4", "python.condaDependencies.channels"):
        assert left in str(warning.message)


def test_user_managed_dependencies_use_the_installed_packages(folder):
    """userManagedDependencies: true means that no environment is built."""
    with pytest.warns(UserWarning, match="python.userManagedDependencies"):
        config = load(folder, "", head=AZURES_OWN.format(folder=folder, managed="true").replace("{", "{{").replace("}", "}}"))
    assert config.environment is None


def test_a_failed_save_leaves_no_file(folder):
    """Saving is atomic."""
    config = load(folder, "")
    with pytest.raises(OSError, match="No such file"):
        config.save_to_yaml(folder / "none" / "config.yaml")


def test_code_beside_the_file_is_found_from_anywhere(tmp_path, monkeypatch):
    """A relative path is relative to the current folder, or else to the file's folder."""
    for name in ("project", "elsewhere"):
        (tmp_path / name / "code").mkdir(parents=True)
        (tmp_path / name / "code" / "score.py").write_text("")
    path, fields = tmp_path / "project" / "c.yml", "  error_threshold: 1\n  output_action: append_row\n"

    def found(code):
        path.write_text(f"parallel_run_config:\n{code}{fields}")
        return ParallelRunConfig.load_yaml(path).script_path

    monkeypatch.chdir(tmp_path)
    here = tmp_path / "project" / "code" / "score.py"
    assert found("  entry_script: score.py\n  source_directory: code\n") == here
    assert found("  entry_script: code/score.py\n") == here
    assert found("  entry_script: code.score\n") == here
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert found("  entry_script: code/score.py\n") == tmp_path / "elsewhere" / "code" / "score.py"
    with pytest.raises(ValueError, match=r"line 2: entry_script is 'none\.py', which does not exist"):
        found("  entry_script: none.py\n")
