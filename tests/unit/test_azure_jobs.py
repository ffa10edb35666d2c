"""Parallel jobs of Azure ML (version 2) as steps, and what becomes of each field."""

import re
from pathlib import Path

import pytest

from prefect_parallel_run import Environment, FileDataset, TabularDataset
from prefect_parallel_run.azure.differences import Outcome
from prefect_parallel_run.azure.load import load

DATA = Path(__file__).parent / "data" / "azure"
HEAD = """\
$schema: https://azuremlschemas.azureedge.net/latest/parallelJob.schema.json
type: parallel
inputs:
  data: {path: ./data}
input_data: ${{inputs.data}}
"""
TASK = "task: {type: run_function, code: ., entry_script: score.py}\n"


def outcomes(step):
    return {one.field: one.outcome for one in step.differences}


def of_field(step, field):
    (found,) = [one for one in step.differences if one.field == field]
    return found


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
    """Inputs of the pipeline are filled in; limits among the arguments count; paths are relative to the file."""
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
    assert step.inputs == TabularDataset.from_delimited_files(
        [DATA / "iris" / "flowers" / "flowers.csv"], delimiter=";", encoding="ascii"
    ).as_named_input("flowers")
    assert step.side_inputs == {"model": str(DATA / "iris" / "model")}
    assert step.arguments == ("--model", "{side_inputs.model}", "--threshold", "2.45")
    assert step.output == str(tmp_path / "out")
    assert step.allow_reuse


def test_every_field_of_a_job_is_accounted_for():
    """None is ignored silently: taken over, changed, or left out with the reason."""
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
    assert found["inputs.flowers MLTable: transformations.keep_columns"] is Outcome.LEFT
    assert found["parallel_run_step.settings.json pandas.DataFrame.to_csv sep"] is Outcome.TAKEN
    assert all(one.why for one in step.differences if one.outcome is not Outcome.TAKEN)
    whole = {one.field for one in imported.differences}
    assert whole == {"display_name", "experiment_name", "tags", "settings.default_compute"}


def test_values_of_environment_variables_are_shown_nowhere():
    """They are secrets."""
    (step,) = load(DATA / "iris" / "pipeline.yml").steps
    assert "hello" not in repr(step) + "".join(map(str, step.differences))


def test_jobs_that_feed_one_another():
    """Another job's output is where its step writes; what a command job makes has to be given a place."""
    path = DATA / "sales" / "pipeline.yml"
    imported = load(path)
    assert [one.field for one in imported.undecided] == ["inputs.sales.path"]
    with pytest.raises(ValueError, match=r"train cannot be run before this is decided:\n  inputs.sales.path"):
        imported.steps[0].step_arguments()
    reference = "${{parent.jobs.partition.outputs.table}}"
    train, collect = load(path, {reference: str(DATA / "iris" / "flowers")}).steps
    assert isinstance(train.inputs, TabularDataset)
    assert (train.config.output_action, train.config.partition_keys) == ("summary_only", ["Store", "Brand"])
    assert of_field(train, "mini_batch_size").outcome is Outcome.LEFT
    assert train.arguments == ("--target", "Quantity", "--lags", "1,2,3", "--models", "{output}")
    assert (train.allow_reuse, collect.allow_reuse) == (False, False)  # force_rerun
    assert collect.inputs == FileDataset.from_files([train.output]).as_named_input("models")
    assert collect.config.append_row_file_name == "all.txt"
    assert collect.arguments == ("--plots", "{output}/plots")
    assert collect.folders == (f"{collect.output}/plots",)
    assert collect.config.environment == Environment(requirements=["statsmodels"], python="3.11")


def test_a_table_that_a_command_job_would_make_may_be_any_table(tmp_path):
    """It is read by its ending then; a folder by that of the files in it."""
    path, reference = DATA / "sales" / "pipeline.yml", "${{parent.jobs.partition.outputs.table}}"
    train, _ = load(path, {reference: "/data/sales.parquet"}).steps
    assert train.inputs == TabularDataset.from_parquet_files("/data/sales.parquet").as_named_input("sales")
    (tmp_path / "Store=1").mkdir()
    with pytest.raises(ValueError, match=r"inputs\.sales\.path: .* holds no table"):
        load(path, {reference: str(tmp_path)})
    (tmp_path / "Store=1" / "a.csv").write_text("x\n1\n")
    train, _ = load(path, {reference: str(tmp_path)}).steps
    assert train.inputs == TabularDataset.from_delimited_files(tmp_path).as_named_input("sales")
    assert of_field(train, "inputs.sales MLTable: read").outcome is Outcome.CHANGED
    with pytest.raises(ValueError, match=r"inputs\.sales\.path: .*does not exist"):
        load(path, {reference: str(tmp_path / "none")})


def test_jobs_come_after_those_they_read(tmp_path):
    """Whatever their order in the file."""
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
    with pytest.raises(ValueError, match="the jobs a, b, c wait for one another"):
        load(path)


def test_a_component_and_the_job_that_uses_it():
    """What the job says counts more; paths count from the file they stand in."""
    (step,) = load(DATA / "digits" / "pipeline.yml").steps
    assert step.config.run_max_try == 4
    assert step.config.run_invocation_timeout == 30
    assert step.arguments == ("--level", "4")  # no --note: it is optional, and not given
    assert step.inputs == FileDataset.from_files([DATA / "digits" / "images"]).as_named_input("images")
    assert step.config.append_row_file_name == "digits.csv"
    assert step.config.environment == Environment(requirements=["pillow"], python="3.10")
    assert of_field(step, "task.environment.conda_file.dependencies").given == "numpy=1.26"


def test_a_component_alone_needs_its_data():
    """Defaults are taken; what has none has to be given a place."""
    path = DATA / "digits" / "component.yml"
    (step,) = load(path).steps
    assert step.name == "recognise"
    assert [one.field for one in step.undecided] == ["inputs.images.path"]
    assert step.arguments == ("--level", "3")
    (step,) = load(path, {"${{inputs.images}}": "/data/images"}).steps
    assert (step.undecided, step.inputs.paths) == ([], ["/data/images"])


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
def test_what_only_a_workspace_knows_is_given_a_place(job, given, references, place):
    """Without one the field is open, and the step cannot be run by mistake."""
    head = HEAD.replace("./data", f"'{given}'")
    if references:
        step = job(head=head)
        (one,) = step.undecided
        assert (one.field, one.given) == ("inputs.data.path", given)
        assert "--map" in one.why
        with pytest.raises(ValueError, match="cannot be run before this is decided"):
            step.step_arguments()
        assert step.step_arguments(accept_open=True)["inputs"].paths == [given]
    step = job(head=head, references=references)
    assert step.undecided == []
    assert step.inputs.paths == [place]


def test_a_reference_that_stands_nowhere_is_an_error(job):
    """It was mistyped."""
    with pytest.raises(ValueError, match="there is no azureml:digit:1 to give a place"):
        job(references={"azureml:digit:1": "/d"})


def test_defaults_are_those_of_azure_or_told(job):
    """All failed items are forgiven; Azure's papers do not agree on the size of a mini-batch."""
    step = job()
    assert step.config.error_threshold == -1
    assert step.config.output_action == "summary_only"
    assert step.config.run_max_try == 3
    assert of_field(step, "mini_batch_size").outcome is Outcome.CHANGED
    assert (step.output or "").endswith("/outputs/job")


@pytest.mark.parametrize(("size", "bytes_or_files"), [("10", 10), ('"100 kb"', 102_400), ("1MB", 1 << 20)])
def test_mini_batch_sizes(job, size, bytes_or_files):
    """Blanks between number and unit, as in Azure's reference, are fine."""
    assert job(f"mini_batch_size: {size}\n").config.mini_batch_size == bytes_or_files


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("--data ${{inputs.data}} --x ${{ inputs.text }}", ("--data", "{inputs.data}", "--x", "two words")),
        ("--in=${{inputs.data}}/part", ("--in={inputs.data}/part",)),
        ("""--a 'one two' --b "${{inputs.text}}" """, ("--a", "one two", "--b", "two words")),
        ("$[[--n ${{inputs.none}}]] --t $[[${{inputs.text}}]]", ("--t", "two words")),
        ("--copy_logs_to_parent False --a", ("--a",)),
        ("--n ${{inputs.number}} --o ${{inputs.truth}}", ("--n", "7", "--o", "True")),
    ],
)
def test_program_arguments(job, text, arguments):
    """Cut as a shell cuts them; a value stays one argument."""
    inputs = "  text: two words\n  number: 7\n  truth: true\n  none: {type: string, optional: true}\n"
    head = HEAD.replace("input_data", f"{inputs}input_data")
    task = f"task:\n  code: .\n  entry_script: score.py\n  program_arguments: >-\n    {text}\n"
    assert job(head=head, task=task).arguments == arguments


def test_a_placeholder_of_ours_in_the_arguments_is_told(job):
    """The script would get a path where it got these characters."""
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
    """The file that is appended to lies in it; other outputs keep their places, or are folders in it."""
    task = TASK if append is None else TASK.replace("}\n", f", append_row_to: '{append}'}}\n")
    step = job(f"outputs: {outputs}\n", task=task)
    root, file_name, places = result
    assert (step.output, step.config.append_row_file_name) == (str(tmp_path / root), file_name)
    assert {name: str(tmp_path / place) for name, place in places.items()}.items() <= step.places.items()


@pytest.mark.parametrize(
    ("body", "task", "words"),
    [
        ("retry_settings: {max_retries: many}\n", TASK, "line 6: max_retries is 'many'; accepted: a whole number"),
        ("retry_settings: 3\n", TASK, "line 6: retry_settings is 3; accepted: a mapping"),
        ("mini_batch_size: ten\n", TASK, "mini_batch_size is 'ten'"),
        ("max_concurrency_per_instance: 0\n", TASK, "process_count_per_node is 0"),
        ("partition_keys: Store\n", TASK, "partition_keys is 'Store'"),
        ("", "task: {code: ., entry_script: no.py}\n", "entry_script is 'no.py', which does not exist"),
        ("", "task: {type: model, code: ., entry_script: score.py}\n", "type is 'model'; accepted: run_function"),
        ("", TASK.replace("}", ", append_row_to: '${{outputs.no}}'}"), "append_row_to is '${{outputs.no}}'"),
        ("", TASK.replace("}", ", program_arguments: '--a ${{inputs.no}}'}"), "${{inputs.no}} stands for nothing here"),
        ("", TASK.replace("}", ", program_arguments: '--error_threshold x'}"), "--error_threshold is 'x'"),
        ("", TASK.replace("}", ', program_arguments: "--a \'x"}'), "No closing quotation"),
        ("", TASK.replace("}", ", environment: {conda_file: no.yml}}"), "conda_file is 'no.yml'; accepted: a file"),
        ("component: azureml:c:1\n", "", "is no parallel job"),
    ],
)
def test_what_is_wrong_is_told(job, body, task, words):
    """With the file, and the line where the field stands."""
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        job(body, task)
    assert "job.yml" in str(caught.value) or "program_arguments" in str(caught.value) or "arguments:" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no mapping of fields"),
        ("- a\n", "is no mapping of fields"),
        ("a: [\n", "not YAML"),
        ("a: 1\na: 2\n", "line 2: the key 'a' stands here twice"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not accepted; only plain values are"),
        ("a: &a [*a]\n", "is a part of itself"),
        ("type: command\n", "is no parallel job"),
        ("type: pipeline\njobs: {a: {type: command}}\n", "has no job of type parallel"),
        ("type: pipeline\njobs: {a: {type: parallel, component: 'azureml:c:1'}}\n", "--map azureml:c:1=FILE"),
        ("type: parallel\ninput_data: ${{inputs.x}}\ntask: {entry_script: a.py}\n", "line 2: input_data is '${{inputs.x}}'"),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    """With what is wrong, and hostile ones at once."""
    path = tmp_path / "f.yml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(words)):
        load(path)


def test_aliases_do_not_grow(tmp_path):
    """Ten lists of ten lists, nine deep, are a billion values if each is made anew."""
    lines = ["a0: &a0 x"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    path = tmp_path / "f.yml"
    path.write_text("\n".join([*lines, "type: command", ""]))
    with pytest.raises(ValueError, match="is no parallel job"):
        load(path)


def test_a_named_environment_and_a_cluster_are_given_places(job, tmp_path):
    """A path of an interpreter, and the address of a scheduler."""
    task = TASK.replace("}", ", environment: azureml:env:1}")
    references = {"azureml:env:1": "/opt/venv", "azureml:cpu": "tls://host:8786"}
    step = job("compute: azureml:cpu\n", task, references=references)
    assert (step.config.environment, step.config.compute_target) == ("/opt/venv", "tls://host:8786")


def test_conda_packages_need_conda(job, tmp_path):
    """The file itself is the environment then."""
    (tmp_path / "conda.yml").write_text("dependencies: [python=3.8, gdal]\n")
    step = job(task=TASK.replace("}", ", environment: {conda_file: conda.yml}}"))
    assert step.config.environment == Environment(conda_file=str(tmp_path / "conda.yml"))
    assert "python=3.8, gdal are packages of conda" in of_field(step, "task.environment.conda_file").why
    assert "Python 3.9 or later" in of_field(step, "task.environment.conda_file").why


def test_a_configuration_of_version_1():
    """Its source directory counts from the file; a cluster of Azure's is this machine unless it is given another."""
    (step,) = load(DATA / "version_1.yml").steps
    assert step.fields["environment_variables"] == {"GREETING": "hello"}
    assert (step.config.compute_target, step.config.node_count, step.inputs) == ("local", 2, None)
    assert step.config.source_directory == str(DATA / "digits" / "code")
    assert outcomes(step)["environment.docker"] is Outcome.LEFT
    assert step.step_arguments()["name"] == "version_1"
    (step,) = load(DATA / "version_1.yml", {"cpu-cluster": "tls://host:8786"}).steps
    assert step.config.compute_target == "tls://host:8786"
