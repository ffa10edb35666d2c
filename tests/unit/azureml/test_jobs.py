"""Parallel jobs of Azure ML (version 2) as steps, and the differences of each field."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run import Environment, FileDataset, TabularDataset
from prefect_parallel_run.azureml.codegen import python_source
from prefect_parallel_run.azureml.findings import Outcome
from prefect_parallel_run.azureml.load import load

DATA = Path(__file__).parents[1] / "data" / "azure"
LEFT = Outcome.LEFT
HEAD = """\
$schema: https://azuremlschemas.azureedge.net/latest/parallelJob.schema.json
type: parallel
inputs:
  data: {path: ./data}
input_data: ${{inputs.data}}
"""
TASK = "task: {type: run_function, code: ., entry_script: score.py}\n"


def outcomes(step):
    return {difference.field: difference.outcome for difference in step.differences}


def of_field(step, field):
    (difference,) = [difference for difference in step.differences if difference.field == field]
    return difference


@pytest.fixture
def job(tmp_path):
    """A parallel job on its own, made of text."""

    def make(body="", task=TASK, head=HEAD, references=None):
        (tmp_path / "score.py").write_text("")
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "job.yml").write_text(head + body + task)
        (step,) = load(tmp_path / "job.yml", references).steps
        return step

    return make


def test_a_step_of_a_pipeline_job(tmp_path):
    """Inputs of the pipeline are filled in; limits among the arguments apply; paths are relative to the file."""
    imported = load(DATA / "iris" / "pipeline.yml", {"${{outputs.named}}": str(tmp_path / "out" / "named.csv")})
    (step,) = imported.steps
    assert imported.undecided == []
    assert step.name == "name_flowers"
    config = step.config
    assert (config.node_count, config.process_count_per_node, config.mini_batch_size) == (2, 1, 1024)
    assert (config.error_threshold, config.allowed_failed_count, config.allowed_failed_percent) == (5, 5, 30)
    assert (config.run_max_try, config.run_invocation_timeout, config.logging_level) == (2, 60, "DEBUG")
    assert (config.output_action, config.append_row_file_name, config.append_row_header) == ("append_row", "named.csv", True)
    assert config.source_directory == str(DATA / "iris" / "code")
    assert config.environment_variables == {"GREETING": "hello"}
    assert config.environment is None
    flowers = TabularDataset.from_delimited_files(
        [DATA / "iris" / "flowers" / "flowers.csv"], delimiter=";", encoding="ascii", column_types={"petal_length": "float64"}
    )
    assert step.call.inputs == flowers.keep_columns(["number", "petal_length", "petal_width"]).as_named_input("flowers")
    assert step.call.side_inputs == {"model": str(DATA / "iris" / "model")}
    assert step.call.arguments == ("--model", "{side_inputs.model}", "--threshold", "2.45")
    assert step.call.output == str(tmp_path / "out")
    assert step.call.allow_reuse


def test_every_field_of_a_job_is_accounted_for():
    """No field is ignored silently: each is taken over, changed, or left out with a reason."""
    imported = load(DATA / "iris" / "pipeline.yml")
    (step,) = imported.steps
    found = outcomes(step)
    assert found["task.environment.image"] is Outcome.LEFT
    assert found["resources.instance_type"] is Outcome.LEFT
    assert found["compute"] is Outcome.CHANGED
    assert found["error_threshold"] is Outcome.CHANGED  # program_arguments say something else
    assert found["retry_settings.max_retries"] is Outcome.TAKEN
    assert found["task.program_arguments --task_overhead_timeout"] is Outcome.LEFT
    assert found["task.program_arguments --allowed_failed_percent"] is Outcome.TAKEN
    assert found["inputs.flowers MLTable: transformations.keep_columns"] is Outcome.TAKEN
    assert found["inputs.flowers MLTable: read_delimited.include_path_column"] is Outcome.LEFT
    assert found["parallel_run_step.settings.json pandas.DataFrame.to_csv sep"] is Outcome.TAKEN
    assert all(one.why for one in step.differences if one.outcome is not Outcome.TAKEN)
    whole = {one.field for one in imported.differences}
    assert whole == {"display_name", "experiment_name", "tags", "settings.default_compute"}


def test_values_of_environment_variables_are_shown_nowhere():
    """Values are secrets."""
    (step,) = load(DATA / "iris" / "pipeline.yml").steps
    assert "hello" not in repr(step) + "".join(map(str, step.differences))


def test_jobs_can_read_each_others_outputs():
    """The output of a parallel job is that of its step; the output of a command job must be mapped."""
    path = DATA / "sales" / "pipeline.yml"
    imported = load(path)
    assert [one.field for one in imported.undecided] == ["inputs.sales.path"]
    with pytest.raises(ValueError, match=r"train cannot run before these decisions:\n  inputs.sales.path"):
        imported.steps[0].step_arguments()
    reference = "${{parent.jobs.partition.outputs.table}}"
    train, collect = load(path, {reference: str(DATA / "iris" / "flowers")}).steps
    assert isinstance(train.call.inputs, TabularDataset)
    assert (train.config.output_action, train.config.partition_keys) == ("summary_only", ["Store", "Brand"])
    assert of_field(train, "mini_batch_size").outcome is Outcome.LEFT
    assert train.call.arguments == ("--target", "Quantity", "--lags", "1,2,3", "--models", "{output}")
    assert (train.call.allow_reuse, collect.call.allow_reuse) == (False, False)  # force_rerun
    assert collect.call.inputs == FileDataset.from_files([train.call.output]).as_named_input("models")
    assert collect.config.append_row_file_name == "all.txt"
    assert collect.call.arguments == ("--plots", "{output}/plots")
    assert collect.folders == (f"{collect.call.output}/plots",)
    assert collect.config.environment == Environment(requirements=["statsmodels"], python="3.11")


def test_an_unresolved_table_can_be_mapped_to_any_table(tmp_path):
    """Its extension, or that of the files in a folder, determines the format."""
    path, reference = DATA / "sales" / "pipeline.yml", "${{parent.jobs.partition.outputs.table}}"
    train, _ = load(path, {reference: "/data/sales.parquet"}).steps
    assert train.call.inputs == TabularDataset.from_parquet_files("/data/sales.parquet").as_named_input("sales")
    (tmp_path / "Store=1").mkdir()
    with pytest.raises(ValueError, match=r"inputs\.sales\.path: no table at "):
        load(path, {reference: str(tmp_path)})
    (tmp_path / "Store=1" / "a.csv").write_text("x\n1\n")
    train, _ = load(path, {reference: str(tmp_path)}).steps
    assert train.call.inputs == TabularDataset.from_delimited_files(tmp_path).as_named_input("sales")
    assert of_field(train, "inputs.sales MLTable: read").outcome is Outcome.CHANGED
    with pytest.raises(ValueError, match=r"inputs\.sales\.path: .*does not exist"):
        load(path, {reference: str(tmp_path / "none")})


def test_jobs_come_after_those_they_read(tmp_path):
    """In any order in the file."""
    task = "input_data: '${{inputs.d}}', outputs: {o: null}, task: {code: ., entry_script: s.py}"
    (tmp_path / "s.py").write_text("")
    chain = {"c": "${{parent.jobs.b.outputs.o}}", "b": "${{parent.jobs.a.outputs.o}}", "a": "./d"}
    path = tmp_path / "p.yml"

    def write(chain):
        lines = [f"  {name}: {{type: parallel, inputs: {{d: {{path: '{place}'}}}}, {task}}}" for name, place in chain.items()]
        path.write_text("type: pipeline\njobs:\n" + "\n".join(lines) + "\n")

    write(chain)
    assert [step.name for step in load(path).steps] == ["a", "b", "c"]
    write({**chain, "a": "${{parent.jobs.c.outputs.o}}"})
    with pytest.raises(ValueError, match="the jobs a, b, c depend on each other"):
        load(path)


def test_a_component_and_the_job_that_uses_it():
    """The job overrides the component; paths are relative to the file that contains them."""
    (step,) = load(DATA / "digits" / "pipeline.yml").steps
    assert step.config.run_max_try == 4
    assert step.config.run_invocation_timeout == 30
    assert step.call.arguments == ("--level", "4")  # no --note: it is optional, and not given
    assert step.call.inputs == FileDataset.from_files([DATA / "digits" / "images"]).as_named_input("images")
    assert step.config.append_row_file_name == "digits.csv"
    assert step.config.environment == Environment(requirements=["pillow"], python="3.10")
    assert of_field(step, "task.environment.conda_file.dependencies").given == "numpy=1.26"


def test_any_field_can_refer_to_literals_of_the_pipeline(tmp_path):
    """As in Azure's examples: node count, logging level, variable; typed, inside a string, or in a component."""
    (tmp_path / "score.py").write_text("")
    declared = "{d: {type: uri_folder}, n: {type: integer}, level: {type: string}}"
    component = f"type: parallel\ninputs: {declared}\ninput_data: ${{{{inputs.d}}}}\n"
    resources = "resources: {instance_count: '${{inputs.n}}'}\nlogging_level: ${{inputs.level}}\n"
    (tmp_path / "c.yml").write_text(component + resources + TASK)
    pipeline = """\
type: pipeline
inputs: {nodes: 3, tries: {type: integer, value: 4}, level: DEBUG, data: ./data, word: two message}
jobs:
  a:
    type: parallel
    component: ./c.yml
    inputs:
      d: {type: uri_folder, path: "${{parent.inputs.data}}"}
      n: ${{parent.inputs.nodes}}
      level: ${{parent.inputs.level}}
    max_concurrency_per_instance: 2
    retry_settings: {max_retries: "${{parent.inputs.tries}}"}
    environment_variables: {A: "is ${{parent.inputs.word}}"}
"""
    (tmp_path / "p.yml").write_text(pipeline)
    (step,) = load(tmp_path / "p.yml").steps
    config = step.config
    assert (config.node_count, config.run_max_try, config.logging_level) == (3, 5, "DEBUG")
    assert config.environment_variables == {"A": "is two message"}
    assert (step.call.inputs.paths, step.undecided) == ([str(tmp_path / "data")], [])


def test_partition_keys_can_come_from_an_input(job):
    """An input holds only a string: a JSON array."""
    head = HEAD.replace("input_data", "  keys: {type: string}\ninput_data")
    step = job("partition_keys: ${{inputs.keys}}\n", head=head, references={"${{inputs.keys}}": '["store", "day"]'})
    assert step.config.partition_keys == ["store", "day"]
    assert of_field(step, "partition_keys").given == "store, day"


def test_an_optional_literal_without_a_value_uses_the_default(job):
    """The field is left out."""
    head = HEAD.replace("input_data", "  n: {type: integer, optional: true}\ninput_data")
    step = job("resources: {instance_count: '${{inputs.n}}'}\n", head=head)
    assert (step.undecided, step.config.node_count) == ([], 1)


def test_a_literal_without_a_value_requires_a_decision(job):
    """In a field and among the arguments, as for data; the user can map it to a value."""
    inputs = "  n: {type: integer}\n  word: {type: string}\n"
    head = HEAD.replace("input_data", f"{inputs}input_data")
    task = TASK.replace("}", ", program_arguments: '--word=${{inputs.word}} x'}")
    body = "resources: {instance_count: '${{inputs.n}}'}\n"
    step = job(body, task, head)
    assert [(one.field, one.reference) for one in step.undecided] == [
        ("inputs.n", "${{inputs.n}}"),
        ("inputs.word", "${{inputs.word}}"),
    ]
    source = python_source(load(step.file))
    why = "no value in this file; provide one"
    assert f'decide("inputs.n ${{{{inputs.n}}}}: {why}")' in source
    assert f'decide("inputs.word ${{{{inputs.word}}}}: {why}"),\n        "x",' in source
    step = job(body, task, head, {"${{inputs.n}}": "2", "${{inputs.word}}": "w"})
    assert (step.undecided, step.config.node_count, step.call.arguments) == ([], 2, ("--word=w", "x"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "resources: {instance_cuont: 2}\nerror_treshold: 5\n",
            (
                "line 7: unknown field 'error_treshold'; did you mean error_threshold?\n"
                "{}, line 6: unknown field 'resources.instance_cuont'; did you mean instance_count?"
            ),
        ),
        ("mini_batch_error_treshold: 5\n", "line 6: unknown field 'mini_batch_error_treshold'; did you mean mini_batch_err"),
        ("resources:\n  instance_cuont: 2\n", "line 7: unknown field 'resources.instance_cuont'; did you mean instance_count?"),
        ("outputs: {a: {pth: x}}\n", "line 6: unknown field 'outputs.a.pth'; did you mean path?"),
    ],
)
def test_mistyped_fields_are_errors(job, tmp_path, body, message):
    """A misspelled limit must not be lost; one error names all of them."""
    with pytest.raises(ValueError, match=re.escape(message.replace("{}", str(tmp_path / "job.yml")))):
        job(body)


IGNORED = ("task.cod", "retry_settings.max_retry")  # by Azure, in jobs and in components
IGNORED_IN_COMPONENTS = ("resources.instance_cuont", "mini_batch_sise")


def _with_unknown_fields(places):
    """Return the fields of a job with an unknown field at each of *places*, which refers to an input without a value."""
    fields = {"task": {"code": ".", "entry_script": "score.py"}, "input_data": "${{inputs.data}}"}
    fields["inputs"] = {"data": {"path": "./data"}, "n": {"type": "integer"}}
    for place in places:
        section, _, name = place.rpartition(".")
        (fields.setdefault(section, {}) if section else fields)[name] = "${{inputs.n}}"
    return fields


@given(st.sets(st.sampled_from((*IGNORED, *IGNORED_IN_COMPONENTS))), st.sets(st.sampled_from(IGNORED)), st.booleans())
def test_unknown_fields_that_azure_ignores_are_left_out(in_component, in_job, alone):
    """Each is reported once, with the most similar name; none requires a decision."""
    with TemporaryDirectory() as folder:
        Path(folder, "score.py").write_text("")
        component = Path(folder, "c.yml")
        component.write_text(yaml.safe_dump({"type": "parallel", **_with_unknown_fields(in_component)}))
        job = {"component": "./c.yml", "type": "parallel", "inputs": {"n": 5}}
        job |= {key: value for key, value in _with_unknown_fields(in_job).items() if key == "retry_settings"}
        if "task.cod" in in_job:
            job["task"] = {"code": ".", "entry_script": "score.py", "cod": "x"}
        path = component if alone else Path(folder, "p.yml")
        if not alone:
            path.write_text(yaml.safe_dump({"type": "pipeline", "jobs": {"a": job}}))
        (step,) = load(path).steps
    expected = set(in_component)
    if not alone:  # the task of a job takes the place of the component's
        expected = (expected - {"task.cod"} if "task.cod" in in_job else expected) | in_job
    found = [one for one in step.differences if "unknown field" in one.why]
    assert {one.field for one in found} == expected
    assert len(found) == len(expected)
    assert all(one.outcome is LEFT and "; did you mean " in one.why for one in found)
    assert [one.field for one in step.undecided] == (["inputs.n"] if alone else [])


@pytest.mark.parametrize("place", IGNORED_IN_COMPONENTS)
def test_jobs_reject_unknown_fields_that_components_accept(tmp_path, place):
    """At the top level and in resources, as in Azure, with and without a component."""
    path = tmp_path / "p.yml"
    path.write_text(yaml.safe_dump({"type": "pipeline", "jobs": {"a": {"type": "parallel", **_with_unknown_fields([place])}}}))
    with pytest.raises(ValueError, match=f"unknown field 'jobs.a.{place}'; did you mean"):
        load(path)


def test_known_azure_fields_without_equivalent_are_left_out(job):
    """They are valid; each has its own reason."""
    step = job("tags: {a: b}\nresources: {shm_size: 2g, docker_args: x}\nidentity: {type: managed}\n")
    assert {outcomes(step)[name] for name in ("tags", "resources.shm_size", "resources.docker_args", "identity")} == {LEFT}


def test_mistyped_fields_of_pipelines_and_components_are_errors(tmp_path):
    """Each error names the file that contains the field."""
    (tmp_path / "c.yml").write_text("type: parallel\ninputs: {data: {pth: x}}\ntask: {code: ., entry_script: s.py}\n")
    path = tmp_path / "p.yml"
    for text, message in (
        ("type: pipeline\ninptus: {}\njobs: {}\n", "p.yml, line 2: unknown field 'inptus'; did you mean inputs?"),
        ("type: pipeline\nsettings:\n  force_rerum: true\njobs: {}\n", "line 3: unknown field 'settings.force_rerum'"),
        ("type: pipeline\njobs:\n  a:\n    type: parallel\n    taks: {}\n", "line 5: unknown field 'jobs.a.taks'; did"),
        (
            "type: pipeline\nsettings: {force_rerum: true}\njobs:\n  a: {type: parallel, taks: {}}\n  b: {task: , comput: }\n",
            (
                "unknown field 'settings.force_rerum'; did you mean force_rerun?\n"
                f"{path}, line 4: unknown field 'jobs.a.taks'; did you mean task?\n"
                f"{path}, line 5: unknown field 'jobs.b.comput'; did you mean compute?"
            ),
        ),
        (
            "type: pipeline\njobs: {a: {component: ./c.yml, error_treshold: 5}}\n",
            "p.yml, line 2: unknown field 'jobs.a.error_treshold'; did you mean error_threshold?\n",
        ),
        ("type: pipeline\njobs: {a: {type: parallel, component: ./c.yml}}\n", "c.yml, line 2: unknown field 'inputs.data.pth'"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)):
            load(path)


def test_an_error_names_the_file_with_the_wrong_value(tmp_path):
    """The component's file, or that of the job that uses it."""
    (tmp_path / "score.py").write_text("")
    (tmp_path / "c.yml").write_text("type: parallel\nresources: {instance_count: x}\ninput_data: '${{inputs.d}}'\n" + TASK)
    path, job = tmp_path / "p.yml", "type: pipeline\njobs:\n  a:\n    type: parallel\n    component: ./c.yml\n"
    path.write_text(job + "    inputs: {d: {path: d}}\n")
    with pytest.raises(ValueError, match=r"c\.yml, line 2: instance_count is 'x'"):
        load(path)
    path.write_text(job + "    inputs: {d: {path: d}}\n    resources:\n      instance_count: y\n")
    with pytest.raises(ValueError, match=r"p\.yml, line 8: instance_count is 'y'"):
        load(path)


def test_a_unit_after_a_number_of_files_is_reported(job):
    """Files are counted, so the unit is only a factor."""
    found = of_field(job("mini_batch_size: 5kb\n"), "mini_batch_size")
    assert (found.outcome, found.here) == (Outcome.CHANGED, "5120 files")


def test_a_component_alone_needs_its_data():
    """Defaults apply; data without a default must be mapped."""
    path = DATA / "digits" / "component.yml"
    (step,) = load(path).steps
    assert step.name == "recognise"
    assert [one.field for one in step.undecided] == ["inputs.images.path"]
    assert step.call.arguments == ("--level", "3")
    (step,) = load(path, {"${{inputs.images}}": "/data/images"}).steps
    assert (step.undecided, step.call.inputs.paths) == ([], ["/data/images"])


@pytest.mark.parametrize(
    ("given", "references", "place"),
    [
        ("azureml:digits:1", {"azureml:digits:1": "/d"}, "/d"),
        ("azureml:digits@latest", {"azureml:digits@latest": "s3://b/d"}, "s3://b/d"),
        ("azureml://datastores/x/paths/a/b", {"azureml://datastores/x/paths/": "/mnt"}, "/mnt/a/b"),
        ("wasbs://c@a.blob/d", {"wasbs://c@a.blob/": "abfss://c@a.dfs"}, "abfss://c@a.dfs/d"),
        ("https://example.com/d.csv", {}, "https://example.com/d.csv"),
    ],
)
def test_names_of_a_workspace_can_be_mapped(job, given, references, place):
    """Otherwise the field is open, and the step cannot run by mistake."""
    head = HEAD.replace("./data", f"'{given}'")
    if references:
        step = job(head=head)
        (one,) = step.undecided
        assert (one.field, one.given) == ("inputs.data.path", given)
        assert one.reference == given
        with pytest.raises(ValueError, match="cannot run before these decisions") as caught:
            step.step_arguments()
        assert f"references={{{given!r}: PLACE}}" in str(caught.value)
        assert "--map" not in str(caught.value)
        assert step.step_arguments(accept_open=True)["inputs"].paths == [given]
    step = job(head=head, references=references)
    assert step.undecided == []
    assert step.call.inputs.paths == [place]


def test_an_unused_reference_is_an_error(job):
    """It is probably misspelled."""
    with pytest.raises(ValueError, match="the file has no reference azureml:digit:1"):
        job(references={"azureml:digit:1": "/d"})


def test_defaults_are_those_of_azure_or_reported(job):
    """No limit on failed items; Azure's documents disagree on the mini-batch size."""
    step = job()
    assert step.config.error_threshold == -1
    assert step.config.output_action == "summary_only"
    assert step.config.run_max_try == 3
    assert of_field(step, "mini_batch_size").outcome is Outcome.CHANGED
    assert (step.call.output or "").endswith("/outputs/job")


@pytest.mark.parametrize(("size", "bytes_or_files"), [("10", 10), ('"100 kb"', 102_400), ("1MB", 1 << 20)])
def test_mini_batch_sizes(job, size, bytes_or_files):
    """Blanks between number and unit are allowed, as in Azure's reference."""
    assert job(f"mini_batch_size: {size}\n").config.mini_batch_size == bytes_or_files


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("--data ${{inputs.data}} --x ${{ inputs.text }}", ("--data", "{inputs.data}", "--x", "two message")),
        ("--in=${{inputs.data}}/part", ("--in={inputs.data}/part",)),
        ("""--a 'one two' --b "${{inputs.text}}" """, ("--a", "one two", "--b", "two message")),
        ("$[[--n ${{inputs.none}}]] --t $[[${{inputs.text}}]]", ("--t", "two message")),
        ("--copy_logs_to_parent False --a", ("--a",)),
        ("--n ${{inputs.number}} --o ${{inputs.truth}}", ("--n", "7", "--o", "True")),
    ],
)
def test_program_arguments(job, text, arguments):
    """Split like in a shell; a value stays one argument."""
    inputs = "  text: two message\n  number: 7\n  truth: true\n  none: {type: string, optional: true}\n"
    head = HEAD.replace("input_data", f"{inputs}input_data")
    task = f"task:\n  code: .\n  entry_script: score.py\n  program_arguments: >-\n    {text}\n"
    assert job(head=head, task=task).call.arguments == arguments


def test_a_placeholder_of_ours_in_the_arguments_is_reported(job):
    """The script would receive a path instead of these characters."""
    task = TASK.replace("}", ", program_arguments: '--a {output}'}")
    assert [one.field for one in job(task=task).undecided] == ["task.program_arguments"]


@pytest.mark.parametrize(
    ("outputs", "append", "result"),
    [
        ("{a: {type: uri_file, path: ./o/x.csv}}", "${{outputs.a}}", ("o", "x.csv", {"a": "o/x.csv"})),
        ("{a: {type: uri_file}}", "${{outputs.a}}", ("outputs/job", None, {"a": "outputs/job/parallel_run_step.txt"})),
        ("{a: {path: ./o}}", "${{outputs.a}}/y.txt", ("o", "y.txt", {"a": "o"})),
        ("{a: null}", "${{outputs.a}}", ("outputs/job", None, {"a": "outputs/job"})),
        ("{a: {path: ./o}, b: {path: ./p}}", "${{outputs.a}}", ("o", None, {"a": "o", "b": "p"})),
        ("{a: {path: ./o}}", None, ("o", None, {"a": "o"})),
        ("{a: {path: 'azureml://datastores/d/paths/x'}, b: {}}", None, ("outputs/job", None, {"a": "outputs/job/a"})),
    ],
)
def test_outputs_become_one_folder(job, tmp_path, outputs, append, result):
    """It contains the result file; other outputs keep their paths, or become folders in it."""
    task = TASK if append is None else TASK.replace("}\n", f", append_row_to: '{append}'}}\n")
    step = job(f"outputs: {outputs}\n", task=task)
    root, file_name, places = result
    assert (step.call.output, step.config.append_row_file_name) == (str(tmp_path / root), file_name)
    assert {name: str(tmp_path / place) for name, place in places.items()}.items() <= step.places.items()


@pytest.mark.parametrize(
    ("body", "task", "message"),
    [
        ("retry_settings: {max_retries: many}\n", TASK, "line 6: max_retries is 'many'; expected an integer"),
        ("retry_settings: 3\n", TASK, "line 6: retry_settings is 3; expected a mapping"),
        ("mini_batch_size: ten\n", TASK, "mini_batch_size is 'ten'"),
        ("max_concurrency_per_instance: 0\n", TASK, "process_count_per_node is 0"),
        ("partition_keys: Store\n", TASK, "partition_keys is 'Store'"),
        ("", "task: {code: ., entry_script: no.py}\n", "entry_script is 'no.py', which does not exist"),
        ("", "task: {type: model, code: ., entry_script: score.py}\n", "type is 'model'; expected run_function"),
        ("", TASK.replace("}", ", append_row_to: '${{outputs.no}}'}"), "append_row_to is '${{outputs.no}}'"),
        ("", TASK.replace("}", ", program_arguments: '--a ${{inputs.no}}'}"), "${{inputs.no}} is unknown"),
        ("", TASK.replace("}", ", program_arguments: '--error_threshold x'}"), "--error_threshold is 'x'"),
        ("", TASK.replace("}", ', program_arguments: "--a \'x"}'), "No closing quotation"),
        ("", TASK.replace("}", ", environment: {conda_file: no.yml}}"), "conda_file is 'no.yml'; expected an existing file"),
        ("component: azureml:c:1\n", "", "not a parallel job"),
    ],
)
def test_errors_name_file_and_line(job, body, task, message):
    """Of the invalid field."""
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        job(body, task)
    assert "job.yml" in str(caught.value) or "program_arguments" in str(caught.value) or "arguments:" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping of fields"),
        ("- a\n", "expected a mapping of fields"),
        ("a: [\n", "not YAML"),
        ("a: 1\na: 2\n", "line 2: duplicate key 'a'"),
        ("a: !!python/object/apply:os.system ['true']\n", "unexpected tag:yaml.org,2002:python"),
        ("a: &a [*a]\n", "contains itself"),
        ("type: command\n", "not a parallel job"),
        (
            "entry_script: s.py\nnode_count: 2\n",
            "line 1: expected one root key, parallel_run_config; got ['entry_script'",
        ),
        ("error_threshold: 5\nmini_batch_size: 2\n", "not a parallel job"),
        ("type: pipeline\njobs: {a: {type: command}}\n", "expected a job of type parallel"),
        (
            "type: pipeline\njobs: {a: {type: parallel, component: 'azureml:c:1'}}\n",
            "--map azureml:c:1=FILE, in Python references=",
        ),
        ("type: parallel\ninput_data: ${{inputs.x}}\ntask: {entry_script: a.py}\n", "line 2: input_data is '${{inputs.x}}'"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    """The error says what is wrong; hostile files fail fast."""
    path = tmp_path / "f.yml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        load(path)


def test_aliases_do_not_grow(tmp_path):
    """Ten lists of ten lists, nine levels deep, would be a billion values if each alias were copied."""
    lines = ["a0: &a0 x"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    path = tmp_path / "f.yml"
    path.write_text("\n".join([*lines, "type: command", ""]))
    with pytest.raises(ValueError, match="not a parallel job"):
        load(path)


def test_packages_of_azure_are_not_installed(job, tmp_path):
    """Stand-ins replace them; their table packages are required instead, and a package that unpacks models is kept."""
    packages = "azureml-core==1.5, 'azureml-dataset-runtime[pandas,fuse]', azureml-train-automl-runtime, numpy"
    (tmp_path / "conda.yml").write_text(f"dependencies: [python=3.11, {{pip: [{packages}]}}]\n")
    step = job(task=TASK.replace("}", ", environment: {conda_file: conda.yml}}"))
    assert step.config.environment.requirements == ["azureml-train-automl-runtime", "numpy", "pandas", "pyarrow"]
    found = of_field(step, "task.environment.conda_file.dependencies")
    assert (found.outcome, found.given) == (LEFT, "azureml-core==1.5, azureml-dataset-runtime[pandas,fuse]")


def test_an_environment_with_a_name_can_be_mapped(job):
    """Regardless of its other fields."""
    task = TASK.replace("}", ", environment: {name: prs, image: i, conda_file: none.yml}}")
    for reference in ("prs", "azureml:prs"):
        assert job(task=task, references={reference: "/opt/venv"}).config.environment == "/opt/venv"


def test_environments_and_clusters_can_be_mapped(job, tmp_path):
    """To the path of an environment, and the address of a scheduler."""
    task = TASK.replace("}", ", environment: azureml:env:1}")
    references = {"azureml:env:1": "/opt/venv", "azureml:cpu": "tls://host:8786"}
    step = job("compute: azureml:cpu\n", task, references=references)
    assert (step.config.environment, step.config.compute_target) == ("/opt/venv", "tls://host:8786")


def test_conda_packages_need_conda(job, tmp_path):
    """The file itself becomes the environment."""
    (tmp_path / "conda.yml").write_text("dependencies: [python=3.8, gdal]\n")
    step = job(task=TASK.replace("}", ", environment: {conda_file: conda.yml}}"))
    assert step.config.environment == Environment(conda_file=str(tmp_path / "conda.yml"))
    assert "python=3.8, gdal are conda packages" in of_field(step, "task.environment.conda_file").why
    assert "Python 3.9 or later" in of_field(step, "task.environment.conda_file").why


def test_a_configuration_of_version_1():
    """Its source directory is relative to the file; an Azure cluster becomes this machine unless it is mapped."""
    (step,) = load(DATA / "version_1.yml").steps
    assert step.fields["environment_variables"] == {"GREETING": "hello"}
    assert (step.config.compute_target, step.config.node_count, step.call.inputs) == ("local", 2, None)
    assert step.config.source_directory == str(DATA / "digits" / "code")
    found = outcomes(step)
    assert found["environment: databricks, docker, python.userManagedDependencies, python.condaDependencies.channels"] is LEFT
    assert found["environment: azureml-core"] is LEFT
    assert found["inputs, side_inputs, arguments, output"] is LEFT
    assert found["environment_variables.GREETING"] is Outcome.CHANGED
    assert step.config.environment.requirements == ["pillow"]
    assert step.step_arguments()["name"] == "version_1"
    (step,) = load(DATA / "version_1.yml", {"cpu-cluster": "tls://host:8786"}).steps
    assert step.config.compute_target == "tls://host:8786"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("  entry_script: recognise.py\n", ""), "v1.yml, line 1: entry_script is missing"),
        (("node_count: 2", "node_count: two"), "line 22: node_count is 'two'; expected an integer"),
        (("node_count: 2", "node_cuont: 2"), "line 22: unknown field 'node_cuont'; did you mean node_count?"),
        (("digits/code", "none"), "line 27: source_directory is 'none'; expected an existing folder"),
    ],
)
def test_wrong_fields_of_version_1_have_their_line(tmp_path, change, message):
    """And their name."""
    path = tmp_path / "v1.yml"
    path.write_text((DATA / "version_1.yml").read_text().replace(*change).replace("digits/code", str(DATA / "digits" / "code")))
    with pytest.raises(ValueError, match=re.escape(message)):
        load(path)


def test_environments_of_version_1_have_names(tmp_path):
    """In the mapping, or in fields that Azure's own load_yaml reads; each can be mapped."""
    path = tmp_path / "v1.yml"
    head = "parallel_run_config:\n  entry_script: s.py\n  error_threshold: 1\n  output_action: append_row\n"
    (tmp_path / "s.py").write_text("")
    path.write_text(f"{head}  environment_name: prs\n")
    (step,) = load(path).steps
    assert of_field(step, "environment_name").outcome is LEFT
    assert step.config.entry_script == str(tmp_path / "s.py")
    assert load(path, {"prs": "/opt/venv"}).steps[0].config.environment == "/opt/venv"
    path.write_text(f"{head}  environment_dir_path: envs/prs\n")
    assert "Environment(requirements=" in of_field(load(path).steps[0], "environment_dir_path").why
    (step,) = load(DATA / "version_1.yml", {"digits": "/opt/venv"}).steps
    assert step.config.environment == "/opt/venv"


def test_a_source_directory_here_and_beside_the_file(tmp_path, monkeypatch):
    """The one in the current folder takes precedence, as in load_yaml, and the other is reported."""
    for name in ("here", "there"):
        (tmp_path / name / "code").mkdir(parents=True)
        (tmp_path / name / "code" / "s.py").write_text("")
    head = "parallel_run_config:\n  entry_script: s.py\n  error_threshold: 1\n  output_action: append_row\n"
    (tmp_path / "there" / "v1.yml").write_text(f"{head}  source_directory: code\n")
    monkeypatch.chdir(tmp_path / "here")
    (step,) = load(tmp_path / "there" / "v1.yml").steps
    found = of_field(step, "source_directory")
    assert (found.outcome, found.here) == (Outcome.CHANGED, str(tmp_path / "here" / "code"))
    assert step.config.source_path == tmp_path / "here" / "code"


def test_an_input_of_the_pipeline_has_the_name_that_stands_in_the_file(tmp_path):
    """As in its jobs, with or without blanks, or as in the pipeline; data and literals."""
    (tmp_path / "score.py").write_text("")
    inputs = "{n: {type: integer}, d: {type: uri_folder}}"
    job = "{type: parallel, inputs: {a: '${{parent.inputs.d}}'}, resources: {instance_count: '${{ parent.inputs.n }}'}"
    path = tmp_path / "p.yml"
    path.write_text(f"type: pipeline\ninputs: {inputs}\njobs:\n  j: {job}, input_data: '${{{{inputs.a}}}}', {TASK.strip()}}}\n")
    (step,) = load(path).steps
    number, data = step.undecided
    assert (number.field, number.reference) == ("parent.inputs.n", "${{parent.inputs.n}}")
    assert data.reference == "${{parent.inputs.d}}"
    assert number.for_command().endswith("provide one: --map '${{parent.inputs.n}}=VALUE'")
    assert number.for_python().endswith("references={'${{parent.inputs.n}}': VALUE}")
    for before in ("${{parent.inputs.", "${{inputs.", "${{ parent.inputs."):
        (step,) = load(path, {before + "n}}": "2", before + "d}}": "/d"}).steps
        assert (step.config.node_count, step.call.inputs.paths, step.undecided) == (2, ["/d"], [])
    with pytest.raises(ValueError, match=r"the file has no reference \$\{\{parent.inputs.m\}\}"):
        load(path, {"${{parent.inputs.m}}": "2"})


@pytest.mark.parametrize("conda", ["./conda.yml", "{name: scoring, dependencies: [{pip: [six]}]}"])
def test_an_unnamed_environment_is_named_after_its_conda_file(job, tmp_path, conda):
    """By the name in it, or by its path, even if it is missing; the report shows which."""
    task = TASK.replace("}", f", environment: {{image: i, conda_file: {conda}}}}}")
    (tmp_path / "conda.yml").write_text("name: scoring\ndependencies: [{pip: [six]}]\n")
    assert job(task=task, references={"scoring": "/opt/venv"}).config.environment == "/opt/venv"
    found = of_field(job(task=task), "task.environment.conda_file")
    assert found.reference == (conda if conda.startswith(".") else "scoring")
    assert found.for_command().endswith(f"or an interpreter: --map {found.reference}=PLACE")
    (tmp_path / "conda.yml").unlink()
    assert job(task=task, references={found.reference: "/opt/venv"}).config.environment == "/opt/venv"


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("nowhere", "as specified; nowhere does not exist here yet"),
        (".", "as specified"),
        ("no/*.txt", "as specified"),
        ("s3://bucket/none", "as specified"),
    ],
)
def test_a_mapped_path_that_does_not_exist_is_reported(job, place, why):
    """It may be misspelled; patterns and stores are checked when the step runs."""
    step = job(head=HEAD.replace("./data", "azureml:mnist_data@latest"), references={"azureml:mnist_data@latest": place})
    assert of_field(step, "inputs.data.path").why == why


def test_a_component_mapping_is_relative_to_the_current_folder(tmp_path, monkeypatch):
    """Like every other mapping; a missing file is named."""
    for name in ("jobs", "parts"):
        (tmp_path / name).mkdir()
    (tmp_path / "parts" / "score.py").write_text("")
    (tmp_path / "parts" / "c.yml").write_text(HEAD + TASK)
    path = tmp_path / "jobs" / "p.yml"
    path.write_text("type: pipeline\njobs: {a: {type: parallel, component: 'azureml:c:1'}}\n")
    monkeypatch.chdir(tmp_path)
    (step,) = load("jobs/p.yml", {"azureml:c:1": "parts/c.yml"}).steps
    assert step.config.source_directory == str(tmp_path / "parts")
    missing = str(tmp_path / "none.yml")
    with pytest.raises(
        ValueError, match=re.escape(f"line 2: component is 'azureml:c:1'; expected a file; it is mapped to {missing!r}")
    ):
        load("jobs/p.yml", {"azureml:c:1": "none.yml"})


@pytest.mark.parametrize("here", [False, True])
@pytest.mark.parametrize("source", ["./", ".", "code"])
def test_a_source_directory_is_where_the_script_is(tmp_path, monkeypatch, source, here):
    """Relative to the current folder if that has the script, else to the file's folder."""
    (tmp_path / source).mkdir(exist_ok=True)
    there = tmp_path / "batch" / source
    there.mkdir(parents=True)
    (there / "score.py").write_text("")
    if here:
        (tmp_path / source / "score.py").write_text("")
    text = (DATA / "version_1.yml").read_text()
    text = re.sub(
        "entry_script: .*", "entry_script: score.py", re.sub("source_directory: .*", f"source_directory: {source}", text)
    )
    (tmp_path / "batch" / "v1.yml").write_text(text)
    monkeypatch.chdir(tmp_path)
    (step,) = load("batch/v1.yml").steps
    assert step.config.source_path == (tmp_path / source if here else there)
