"""The settings file and driver options of Azure: applied if they have an equivalent here, else one warning each."""

import json

import pytest

from prefect_parallel_run.azureml.settings import apply_azure_settings, job_options, runtime_options
from prefect_parallel_run.config.model import ParallelRunConfig

WITHOUT_EFFECT = [
    ("--first_task_creation_timeout", "600", "node_start_timeout"),
    ("--progress_update_timeout", "600", "run_invocation_timeout"),
    ("--task_overhead_timeout", "1200", "run_invocation_timeout"),
    ("--resource_monitor_interval", "20", "sampling interval"),
    ("--resource_monitor_interva", "20", "sampling interval"),
    ("--copy_logs_to_parent", "True", "run directory"),
    ("--amlbi_async_mode", "True", "process_count_per_node"),
    ("--amlbi_dataframe_mixed_types", "true", "column_types"),
    ("--append_row_safe_output", "1", "each once"),
    ("--rank_mini_batch_count", "3", "the inputs are processed"),
    ("--metrics_name_prefix", "x_", "metrics are not sent"),
    ("--push_metrics_to_parent", "true", "metrics are not sent"),
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


@pytest.mark.parametrize(("option", "value", "message"), WITHOUT_EFFECT)
@pytest.mark.parametrize("joined", [False, True])
def test_options_without_effect_are_one_warning_each(config, option, value, message, joined):
    """The warning names the option and its replacement; the configuration does not change."""
    given = config()
    arguments = [f"{option}={value}"] if joined else [option, value]
    changed, (warning,) = apply_azure_settings(given, ["--mine", "1", *arguments, "--other"])
    assert changed == given
    assert warning.startswith(f"{option} {value}: left out; ")
    assert message in warning


@pytest.mark.parametrize("arguments", [["--copy_logs_to_parent", "False"], ["--rank_mini_batch_count", "0"], [], ["--mine"]])
def test_azures_defaults_cause_no_warning(config, arguments):
    """They would have no effect in Azure either."""
    assert apply_azure_settings(config(), arguments) == (config(), [])


def test_the_last_header_option_takes_precedence(config):
    """As in argparse."""
    arguments = ["--append_row_dataframe_header", "False", "--append_row_dataframe_header=True"]
    changed, warnings = apply_azure_settings(config(), arguments)
    assert (changed.append_row_header, warnings) == (True, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--append_row_dataframe_header"], "--append_row_dataframe_header lacks its value; expected True or False"),
        (["--append_row_dataframe_header", "--x"], "lacks its value"),
        (["--append_row_dataframe_header", "maybe"], "is 'maybe'; expected True or False"),
        (["--task_overhead_timeout", "nan"], "is 'nan'; expected seconds"),
        (["--rank_mini_batch_count=two"], "is 'two'; expected an integer"),
    ],
)
def test_wrong_values_are_errors(arguments, message):
    """The error names the option and what is expected."""
    with pytest.raises(ValueError) as caught:
        runtime_options(arguments)
    assert message in str(caught.value)


def test_limits_in_a_jobs_arguments_become_fields():
    """They are removed from the arguments, in which a step rejects names of configuration fields."""
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
def test_azures_usual_settings_give_azures_output(config, header):
    """DataFrames become the same text as with the settings and options that Azure's own tools write."""
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
def test_supported_keywords_are_applied(config, keywords, fields):
    """Without a warning."""
    changed, warnings = apply_azure_settings(config(to_csv(**keywords)), [])
    assert warnings == []
    assert fields.items() <= changed.model_dump().items()


@pytest.mark.parametrize(
    ("settings", "fields", "message"),
    [
        (to_csv(chunksize=5), {}, "to_csv chunksize 5: left out"),
        (to_csv(lineterminator="\r\n"), {}, "to_csv lineterminator"),
        (to_csv(header="a"), {}, 'to_csv header "a": left out'),
        (to_csv(sep=","), {"append_row_csv_options": {"sep": ";"}}, "append_row_csv_options={'sep': ';'} takes precedence"),
        (to_csv(header=False), {"append_row_header": True}, "append_row_header=True takes precedence"),
        (to_csv(header=False), {"append_row_format": "csv"}, "append_row_format='csv' always has a header line"),
        (to_csv(sep=","), {"append_row_file_name": "x.jsonl"}, "rows are written as jsonl"),
        ({"append_row": {"numpy.savetxt": {}}}, {}, "append_row.numpy.savetxt {}: left out"),
        ({"logging": 1}, {}, "logging 1: left out"),
    ],
)
def test_ignored_settings_are_one_warning(config, settings, fields, message):
    """Unsupported keywords, and those that the configuration overrides."""
    given = config(settings, **fields)
    changed, (warning,) = apply_azure_settings(given, [])
    assert changed == given
    assert message in warning


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"append_row": 1}', '{"append_row": {"pandas.DataFrame.to_csv": []}, "x": ', "\xff"]
)
def test_a_broken_settings_file_is_an_error_that_names_it(config, text):
    """It must not be ignored silently."""
    given = config("{}")
    path = given.source_path / "parallel_run_step.settings.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"parallel_run_step\.settings\.json"):
        apply_azure_settings(given, [])


def test_without_rows_the_settings_file_has_no_effect(config):
    """summary_only writes no rows."""
    given = config("{", output_action="summary_only")
    assert apply_azure_settings(given, []) == (given, [])


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"sep": ";;"}, "['sep'] is ';;'; expected one character"),
        ({"quoting": False}, "['quoting'] is False; expected 0 (minimal)"),
        ({"float_format": "%d %d"}, "expected a format for one number"),
        ({"encoding": "utf-16"}, "byte order mark"),
        ({"sep": "|", "quotechar": "|"}, "different characters"),
    ],
)
def test_a_keyword_with_a_wrong_value_is_an_error(config, keywords, message):
    """It names file, keyword and what is expected; pandas would raise only later, in every process."""
    with pytest.raises(ValueError) as caught:
        apply_azure_settings(config(to_csv(**keywords)), [])
    assert message in str(caught.value)
    assert "parallel_run_step.settings.json" in str(caught.value)


def test_own_options_come_first_keyword_by_keyword(config):
    """Keywords that only the file has are added."""
    changed, warnings = apply_azure_settings(config(to_csv(sep=";", na_rep="-"), append_row_csv_options={"sep": ";"}), [])
    assert (changed.append_row_csv_options, warnings) == ({"sep": ";", "na_rep": "-"}, [])


@pytest.mark.parametrize("more", [[], ["--mine"], ["word"]])
@pytest.mark.parametrize("option", ["amlbi_async_mode", "amlbi_dataframe_mixed_types", "append_row_safe_output"])
def test_switches_of_azure_can_omit_their_value(option, more):
    """The next argument belongs to the script, unless it is a boolean."""
    found, rest = job_options([f"--{option}", *more])
    assert [one.field for one in found.differences] == [f"--{option}"]
    assert rest == more
    assert job_options([f"--{option}", "False", *more]) == (found._replace(differences=[]), more)
