"""The deployments of deployments/prefect.yaml on a standing server: what is deployed, runs, schedules, and Prefect's UI.

The UI is shown in a headless Chromium. A page that requests another machine (the newer UI: its analytics) is refused.
"""

import json
import re
import subprocess
import sys
import urllib.error
from datetime import datetime, timedelta, timezone

import pytest
import yaml

from prefect_parallel_run import ParallelRunResult
from prefect_parallel_run.flows import parallel_run

from .conftest import wait_until
from .prefect_at_work import RECIPE, ROOT, Prefect

LABELS = ("Step name", "Inputs", "Output (Optional)", "Configuration", "Entry script", "Error threshold", "Output action")
READ_RESULT = """
import sys
from prefect import get_client

with get_client(sync_client=True) as client:
    print(client.read_flow_run(sys.argv[1]).state.result().model_dump_json())
"""


@pytest.fixture(scope="module")
def at_work(tmp_path_factory):
    """A server, a worker and the deployments of deployments/prefect.yaml, for the tests of this file: they take a minute."""
    prefect = Prefect(tmp_path_factory.mktemp("at_work"))
    try:
        prefect.deploy()
        yield prefect
    finally:
        prefect.stop()


def test_what_is_deployed(at_work):
    """Every deployment of the file, with its schedules, working in the clone."""
    content = yaml.safe_load(RECIPE.read_text())
    deployed = {(entry["entrypoint"], entry["name"]): entry for entry in at_work.deployments.values()}
    assert set(deployed) == {(deployment["entrypoint"], deployment["name"]) for deployment in content["deployments"]}
    kinds = set()
    for deployment in content["deployments"]:
        entry = deployed[deployment["entrypoint"], deployment["name"]]
        wanted = [(one["slug"], one["active"]) for one in deployment.get("schedules", [])]
        assert [(one["slug"], one["active"]) for one in entry["schedules"]] == wanted
        kinds |= {key for one in entry["schedules"] for key in one["schedule"]}
        (step,) = entry["pull_steps"]
        assert step == {"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}
    assert {"cron", "interval"} <= kinds


def test_an_example_flow(at_work, tmp_path):
    """Started as the README says, with a folder of the test's for the results."""
    at_work.run("deployment", "run", "digits/local", "--param", f"folder={json.dumps(str(tmp_path / 'digits'))}")
    deployment = at_work.deployments["digits/local"]["id"]
    wanted = {"flow_runs": {"deployment_id": {"any_": [deployment]}}}
    (asked,) = [entry for entry in at_work.ask("/flow_runs/filter", wanted) if entry["auto_scheduled"] is False]
    at_work.completes(asked["id"])
    rows = (tmp_path / "digits" / "scores" / "parallel_run_step.txt").read_text().splitlines()
    assert len(rows) == 1797


def test_the_ready_made_flow_with_parameters_as_the_form_sends_them(at_work, files, scripts, tmp_path):
    """The server accepts them, the flow gets models, the result can be read by whoever started it; a wrong value is refused."""
    deployment = at_work.deployments["parallel-run/form"]["id"]
    parameters = {
        "name": "echo",
        "inputs": [{"files": [str(files)], "allow_empty": False}],
        "output": str(tmp_path / "out"),
        "arguments": ["--where", "{output}"],
        "allow_reuse": True,
        "config": {
            "entry_script": "echo.py",
            "source_directory": str(scripts),
            "error_threshold": 0,
            "output_action": "append_row",
            "mini_batch_size": "25",
            "compute_target": "local",
            "node_count": 1,
            "process_count_per_node": 1,
            "run_invocation_timeout": 60,
            "environment_variables": {"__prefect_kind": "json"},  # what an editor that was left empty sends
        },
    }
    wrong = {**parameters, "config": {**parameters["config"], "mini_batch_size": "25 files"}}
    with pytest.raises(urllib.error.HTTPError) as refused:
        at_work.ask(f"/deployments/{deployment}/create_flow_run", {"parameters": wrong})
    assert refused.value.code == 409
    assert "config" in refused.value.read().decode()

    run = at_work.ask(f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]
    at_work.completes(run)
    said = subprocess.run(
        [sys.executable, "-c", READ_RESULT, run],
        capture_output=True,
        text=True,
        check=True,
        env=at_work.environment,
        timeout=120,
    )
    result = ParallelRunResult.model_validate_json(said.stdout)
    assert (result.items_succeeded, result.mini_batches_total, result.name) == (100, 4, "echo")
    assert at_work.ask(f"/flow_runs/{run}")["name"].startswith("echo: 20")


def test_a_large_input_is_split_over_several_runs(at_work, tmp_path):
    """As the guide says: one run of a deployment per part of the input, each with its own output."""
    guide = (ROOT / "docs" / "guides" / "scheduling.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?run_deployment.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    for old, new in (
        ("parallel-run/score", "parallel-run/count-lines"),
        ("data/", f"{tmp_path}/data/"),
        ("out/", f"{tmp_path}/out/"),
    ):
        code = code.replace(old, new)
    for day, number in (("monday", 3), ("tuesday", 2)):
        (tmp_path / "data" / day).mkdir(parents=True)
        for index in range(number):
            (tmp_path / "data" / day / f"{index}.png").write_text("line\n")
    subprocess.run(
        [sys.executable, "-c", f"{code}\n\nscore_all(['monday', 'tuesday'])"], check=True, env=at_work.environment, timeout=300
    )
    wanted = {"flow_runs": {"deployment_id": {"any_": [at_work.deployments["parallel-run/count-lines"]["id"]]}}}
    runs = {run["parameters"].get("name"): run["id"] for run in at_work.ask("/flow_runs/filter", wanted)}
    for day, number in (("monday", 3), ("tuesday", 2)):
        at_work.completes(runs[f"score-{day}"])
        assert len((tmp_path / "out" / day / "lines.csv").read_text().splitlines()) == 1 + number


def test_an_interval_schedule_fires(at_work, tmp_path):
    """On the deployment of one's own script; what the schedule starts completes."""
    deployment = at_work.deployments["parallel-run/count-lines"]["id"]
    soon = datetime.now(timezone.utc) + timedelta(seconds=10)  # a scheduler that is late for it has the next one a minute later
    schedule = {"interval": 60, "anchor_date": soon.isoformat(), "timezone": "UTC"}
    asked = {"schedule": schedule, "active": True, "parameters": {"output": str(tmp_path / "out")}}
    (made,) = at_work.ask(f"/deployments/{deployment}/schedules", [asked])
    wanted = {"flow_runs": {"deployment_id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}

    def scheduled():
        return [run for run in at_work.ask("/flow_runs/filter", wanted) if run["auto_scheduled"]]

    (first, *_) = wait_until(scheduled, 120, pause=0.5)
    wait_until(lambda: at_work.ask(f"/flow_runs/{first['id']}")["state"]["type"] != "SCHEDULED", 600, pause=0.5)
    at_work.ask(f"/deployments/{deployment}/schedules/{made['id']}", method="DELETE")  # else another run starts a minute later
    state = at_work.final(first["id"])
    assert state["type"] == "COMPLETED", (state, at_work.log.read_text())
    lines = (tmp_path / "out" / "lines.csv").read_text().splitlines()
    assert lines[0] == "file,lines,bytes"
    assert any(line.startswith("flows.py,") for line in lines)


def looked_at(at_work, browser, do):
    """What *do* returns when it is called with a page that reaches this server alone."""

    def on_this_machine(page):
        home = at_work.api.removesuffix("/api")
        page.route("**/*", lambda route: route.continue_() if route.request.url.startswith(home) else route.abort())
        return do(page)

    return browser.look(on_this_machine, viewport={"width": 1200, "height": 1000})


def home_of(at_work, generation):
    """The address of one of the two UIs that Prefect serves."""
    page = at_work.api.removesuffix("/api")
    return page if generation == "v1" else f"{page}/v2"


def help_texts():
    """Of every parameter of the flow and every field of the configuration, as the schema has them."""
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(parallel_run).model_dump_for_openapi()
    fields = [*schema["properties"].values(), *schema["definitions"]["Settings"]["properties"].values()]
    return [field["description"] for field in fields]


@pytest.mark.parametrize("generation", ["v1", "v2"])
def test_the_form(at_work, browser, generation):
    """Both generations of the form have all labels and help texts; few fields have tabs, and no tab is named None."""
    deployment = at_work.deployments["parallel-run/form"]["id"]

    def read(page):
        page.goto(f"{home_of(at_work, generation)}/deployments/deployment/{deployment}/run")
        page.get_by_text("Speculative execution (Optional)").wait_for()
        return page.inner_text("body")

    text = looked_at(at_work, browser, read)
    lines = text.splitlines()
    for label in LABELS:
        assert label in lines
    flat = " ".join(text.split())
    for words in help_texts():
        assert words in flat
    assert lines.index("Entry script") < lines.index("Nodes (Optional)") < lines.index("Speculative execution (Optional)")
    assert "None" not in lines
    assert 'Property is type "None"' not in text


def fill(page, files, output, scripts):
    """Fill in what a run needs; one file of the input makes its mini-batch fail."""
    page.get_by_label("Step name").fill("from the form")
    page.get_by_role("button", name="Add item").first.click()
    files_tab = page.get_by_role("tabpanel").filter(has_text="run() gets a list of paths")
    files_tab.get_by_role("button", name="Add item").click()
    files_tab.get_by_role("textbox").first.fill(str(files))
    page.get_by_label("Output (Optional)").fill(str(output))
    arguments = field(page, "Arguments (Optional)")
    for argument in ("--how", "raise", "--guilty", "f003.txt"):
        arguments.get_by_role("button", name="Add item").click()
        arguments.get_by_role("textbox").last.fill(argument)
    page.get_by_label("Entry script").fill("guilty.py")
    page.get_by_label("Source directory (Optional)").fill(str(scripts))
    page.get_by_label("Error threshold").fill("-1")
    page.get_by_label("Select Output action").click()
    page.get_by_role("option", name="append_row").click()
    page.get_by_label("Processes per node (Optional)").fill("1")


def field(page, label):
    """The innermost part of the form that has this label."""
    return page.locator("div.group", has=page.get_by_text(label, exact=True)).last


def submitted(page):
    """Submit the form, again while the server is busy or if the form loses the click, and return what the server answers."""
    from playwright.sync_api import TimeoutError as NoRequest

    def answered():
        try:
            with page.expect_request(lambda asked: asked.url.endswith("/create_flow_run"), timeout=30_000) as asked:
                page.get_by_role("button", name="Submit").click()
        except NoRequest:
            print(page.inner_text("body"))  # says which field the form finds wrong, if any
            return None
        answer = asked.value.response()
        return None if answer.status == 503 else answer

    return wait_until(answered, 300, pause=1)


def accepted(page):
    """Submit the form and return the flow run that it has made."""
    answer = submitted(page)
    assert answer.ok, answer.text()
    return answer.json()


def test_a_run_from_the_form(at_work, browser, files, scripts, tmp_path):
    """A wrong value is reported at its field; after a fix the run completes, and shows progress, failures and its report."""
    deployment = at_work.deployments["parallel-run/form"]["id"]

    def start(page):
        page.goto(f"{home_of(at_work, 'v2')}/deployments/deployment/{deployment}/run")
        fill(page, files, tmp_path / "out", scripts)
        size = field(page, "Mini-batch size (Optional)")
        size.get_by_role("tab", name="With unit").click()
        size.get_by_role("textbox").fill("10 files")
        submitted(page)
        size.get_by_text("'10 files' is not valid").first.wait_for()
        wait_until(lambda: is_checked_while_typed(page, size.get_by_role("textbox"), "20"))
        size.get_by_text("is not valid").first.wait_for(state="hidden")
        return accepted(page)

    run = looked_at(at_work, browser, start)
    at_work.completes(run["id"])
    rows = (tmp_path / "out" / "parallel_run_step.txt").read_text().splitlines()
    assert len(rows) == 80

    def look(page):
        page.goto(f"{home_of(at_work, 'v2')}/runs/flow-run/{run['id']}")
        page.get_by_text("Completed", exact=True).first.wait_for()
        page.get_by_role("tab", name="Artifacts").click()
        for words in ("from-the-form-progress", "5 of 5 mini-batches (100 %)", "from-the-form-failures"):
            page.get_by_text(words).first.wait_for()
        name = page.get_by_text(re.compile(r"^from the form: 20\d\d-\d\d-\d\d \d\d:\d\d UTC$"))
        name.first.wait_for()
        failures = artifact(at_work, run["id"], "from-the-form-failures")
        page.goto(f"{home_of(at_work, 'v2')}/artifacts/artifact/{failures['id']}")
        page.get_by_text("ZeroDivisionError: division by zero").first.wait_for()
        report = artifact(at_work, run["id"], "from-the-form-report")
        page.goto(f"{home_of(at_work, 'v2')}/artifacts/artifact/{report['id']}")
        page.get_by_text("report.html").first.wait_for()

    looked_at(at_work, browser, look)


def is_checked_while_typed(page, box, text):
    """Return whether the form sends *text* when it is typed, without a click; during an answer, it may lose what is typed."""
    from playwright.sync_api import TimeoutError as NoRequest

    try:
        with page.expect_request(lambda asked: f'"mini_batch_size":"{text}"' in (asked.post_data or ""), timeout=30_000):
            if box.input_value() == text:  # otherwise one change is enough: a slow form may apply two in the wrong order
                box.fill("")
            box.fill(text)
    except NoRequest:
        return False
    return True


def artifact(at_work, run, key):
    """The run's artifact of this key."""
    wanted = {"artifacts": {"key": {"any_": [key]}, "flow_run_id": {"any_": [run]}}}
    (found,) = at_work.ask("/artifacts/filter", wanted)
    return found


def test_a_saved_block_is_chosen(at_work, browser, files, scripts, tmp_path):
    """In the form, by its name; no parameter contains its values, and the step runs on its cluster."""
    block = saved_block(at_work)
    deployment = at_work.deployments["parallel-run/form"]["id"]

    def start(page):
        page.goto(f"{home_of(at_work, 'v2')}/deployments/deployment/{deployment}/run")
        fill(page, files, tmp_path / "out", scripts)
        target = field(page, "Compute target (Optional)")
        target.get_by_role("tab", name="Saved block").click()
        target.get_by_role("button", name="Select a block").click()
        page.get_by_role("option", name="two-threads").click()
        target.get_by_text("two-threads").wait_for()
        return accepted(page)

    run = looked_at(at_work, browser, start)
    assert block in json.dumps(run["parameters"]["config"]["compute_target"])
    assert "threads_per_worker" not in json.dumps(run)
    at_work.completes(run["id"])


def saved_block(at_work):
    """The id of a block that opens a cluster of this machine, saved as a person would."""
    code = (
        "from prefect_parallel_run import DaskComputeTarget\n"
        "block = DaskComputeTarget(cluster_class='distributed.LocalCluster', cluster_kwargs={'threads_per_worker': 2})\n"
        "print(block.save('two-threads', overwrite=True))\n"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True, env=at_work.environment, timeout=120)
    return said.strip()
