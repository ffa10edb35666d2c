"""The settings file and the driver's options of Azure: honoured where they mean something here, else one warning each."""

import json

import pytest

from prefect_parallel_run.azureml.options import job_options, runtime_options
from prefect_parallel_run.azureml.overrides import apply_azure_settings
from prefect_parallel_run.config.model import ParallelRunConfig

WITHOUT_MEANING = [
    ("--first_task_creation_timeout", "600", "node_start_timeout"),
    ("--progress_update_timeout", "600", "run_invocation_timeout"),
    ("--task_overhead_timeout", "1200", "run_invocation_timeout"),
    ("--resource_monitor_interval", "20", "intervals of our own"),
    ("--resource_monitor_interva", "20", "intervals of our own"),
    ("--copy_logs_to_parent", "True", "run directory"),
    ("--amlbi_async_mode", "True", "process_count_per_node"),
    ("--amlbi_dataframe_mixed_types", "true", "column_types"),
    ("--append_row_safe_output", "1", "each once"),
    ("--rank_mini_batch_count", "3", "the inputs are processed"),
    ("--metrics_name_prefix", "x_", "no metrics"),
    ("--push_metrics_to_parent", "true", "no metrics"),
]


@pytest.fixture
def config(tmp_path):
    def make(settings=None, **fields):
        (tmp_path / "score.py").write_text("")
        if settings is not None:
            text = settings if isinstance(settings, str) else json.dumps(settings)
            (tmp_path / "parallel_run_step.settings.json").write_text(text)
        given = {"source_directory": str(tmp_path), "entry_script": "score.py", "error_threshold": -1}
        return ParallelRunConfig(**{**given, "output_action": "append_row", **fields})

    return make


def to_csv(**keywords):
    return {"append_row": {"pandas.DataFrame.to_csv": keywords}}


@pytest.mark.parametrize(("option", "value", "words"), WITHOUT_MEANING)
@pytest.mark.parametrize("joined", [False, True])
def test_options_without_a_meaning_here_are_one_warning_each(config, option, value, words, joined):
    """It says which, and what there is instead; the configuration stays as it is."""
    given = config()
    arguments = [f"{option}={value}"] if joined else [option, value]
    changed, (warning,) = apply_azure_settings(given, ["--mine", "1", *arguments, "--other"])
    assert changed == given
    assert warning.startswith(f"{option} {value}: left out; ")
    assert words in warning


@pytest.mark.parametrize("arguments", [["--copy_logs_to_parent", "False"], ["--rank_mini_batch_count", "0"], [], ["--mine"]])
def test_what_asks_for_nothing_is_no_warning(config, arguments):
    """Azure's defaults, written out."""
    assert apply_azure_settings(config(), arguments) == (config(), [])


def test_the_header_is_honoured_and_the_last_one_counts(config):
    """As argparse reads it."""
    arguments = ["--append_row_dataframe_header", "False", "--append_row_dataframe_header=True"]
    changed, warnings = apply_azure_settings(config(), arguments)
    assert (changed.append_row_header, warnings) == (True, [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--append_row_dataframe_header"], "--append_row_dataframe_header has no value; accepted: True or False"),
        (["--append_row_dataframe_header", "--x"], "has no value"),
        (["--append_row_dataframe_header", "maybe"], "is 'maybe'; accepted: True or False"),
        (["--task_overhead_timeout", "nan"], "is 'nan'; accepted: seconds"),
        (["--rank_mini_batch_count=two"], "is 'two'; accepted: a whole number"),
    ],
)
def test_wrong_values_are_errors(arguments, words):
    """They name the option and what is accepted."""
    with pytest.raises(ValueError) as caught:
        runtime_options(arguments)
    assert words in str(caught.value)


def test_a_jobs_limits_become_fields_and_leave_the_arguments():
    """A parallel job may have them there; the names of our fields are refused in a step's arguments."""
    arguments = [
        "--model",
        "m",
        "--error_threshold",
        "5",
        "--allowed_failed_percent",
        "30",
        "--task_overhead_timeout",
        "9",
        "-x",
        "--y",
    ]
    translation, rest = job_options(arguments)
    assert translation.fields == {"error_threshold": 5, "allowed_failed_percent": 30.0}
    assert rest == ["--model", "m", "-x", "--y"]
    with pytest.raises(ValueError, match="--allowed_failed_percent is '101'"):
        job_options(["--allowed_failed_percent", "101"])


@pytest.mark.parametrize("header", [True, False])
def test_commas_are_commas_and_the_header_is_the_options(config, header):
    """The settings that Azure's own tools write, with the option they pass: DataFrames become what they become there."""
    arguments = ["--append_row_dataframe_header", "True"] if header else []
    changed, warnings = apply_azure_settings(config(to_csv(sep=",")), arguments)
    assert (changed.result_format, changed.append_row_csv_options) == ("text", {"sep": ","})
    assert (changed.append_row_header, warnings) == (header, [])


@pytest.mark.parametrize(
    ("keywords", "fields"),
    [
        ({"sep": "\t"}, {"append_row_csv_options": {"sep": "\t"}}),
        ({"header": True}, {"append_row_header": True}),
        ({"header": ["a"]}, {"append_row_header": True, "append_row_csv_options": {"header": ["a"]}}),
        ({"index": True, "float_format": "%.2f"}, {"append_row_csv_options": {"index": True, "float_format": "%.2f"}}),
        ({"mode": "a", "lineterminator": "\n", "escapechar": None}, {"append_row_csv_options": None}),
        ({}, {}),
    ],
)
def test_keywords_that_mean_something_here_are_honoured(config, keywords, fields):
    """Without a word."""
    changed, warnings = apply_azure_settings(config(to_csv(**keywords)), [])
    assert warnings == []
    assert fields.items() <= changed.model_dump().items()


@pytest.mark.parametrize(
    ("settings", "fields", "words"),
    [
        (to_csv(chunksize=5), {}, "to_csv chunksize 5: left out"),
        (to_csv(lineterminator="\r\n"), {}, "to_csv lineterminator"),
        (to_csv(header="a"), {}, 'to_csv header "a": left out'),
        (to_csv(sep=","), {"append_row_csv_options": {"sep": ";"}}, "append_row_csv_options={'sep': ';'} counts"),
        (to_csv(header=False), {"append_row_header": True}, "append_row_header=True counts"),
        (to_csv(header=False), {"append_row_format": "csv"}, "append_row_format='csv' has a header line"),
        (to_csv(sep=","), {"append_row_file_name": "x.jsonl"}, "rows are written as jsonl"),
        ({"append_row": {"numpy.savetxt": {}}}, {}, "append_row.numpy.savetxt {}: left out"),
        ({"logging": 1}, {}, "logging 1: left out"),
    ],
)
def test_what_is_not_kept_is_one_warning(config, settings, fields, words):
    """Keywords without a place here, and those that the configuration overrules."""
    given = config(settings, **fields)
    changed, (warning,) = apply_azure_settings(given, [])
    assert changed == given
    assert words in warning


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"append_row": 1}', '{"append_row": {"pandas.DataFrame.to_csv": []}, "x": ', "\xff"]
)
def test_a_broken_settings_file_is_an_error_that_names_it(config, text):
    """It was meant to say something."""
    given = config("{}")
    path = given.source_path / "parallel_run_step.settings.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"parallel_run_step\.settings\.json"):
        apply_azure_settings(given, [])


def test_without_rows_the_settings_file_says_nothing(config):
    """summary_only writes none."""
    given = config("{", output_action="summary_only")
    assert apply_azure_settings(given, []) == (given, [])


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"sep": ";;"}, "['sep'] is ';;'; expected one character"),
        ({"quoting": False}, "['quoting'] is False; expected 0 (minimal)"),
        ({"float_format": "%d %d"}, "expected a format for one number"),
        ({"encoding": "utf-16"}, "byte order mark"),
        ({"sep": "|", "quotechar": "|"}, "different characters"),
    ],
)
def test_a_keyword_with_a_wrong_value_is_an_error(config, keywords, words):
    """It names file, keyword and what is accepted: pandas would only say so in every process."""
    with pytest.raises(ValueError) as caught:
        apply_azure_settings(config(to_csv(**keywords)), [])
    assert words in str(caught.value)
    assert "parallel_run_step.settings.json" in str(caught.value)


def test_own_options_come_first_keyword_by_keyword(config):
    """What only the file says is added."""
    changed, warnings = apply_azure_settings(config(to_csv(sep=";", na_rep="-"), append_row_csv_options={"sep": ";"}), [])
    assert (changed.append_row_csv_options, warnings) == ({"sep": ";", "na_rep": "-"}, [])


@pytest.mark.parametrize("more", [[], ["--mine"], ["word"]])
@pytest.mark.parametrize("option", ["amlbi_async_mode", "amlbi_dataframe_mixed_types", "append_row_safe_output"])
def test_switches_of_azure_may_stand_without_a_value(option, more):
    """What comes behind is the script's, unless it says yes or no."""
    found, rest = job_options([f"--{option}", *more])
    assert [one.field for one in found.differences] == [f"--{option}"]
    assert rest == more
    assert job_options([f"--{option}", "False", *more]) == (found._replace(differences=[]), more)
