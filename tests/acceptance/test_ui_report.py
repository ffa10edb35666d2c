"""The link to a run's report, in Prefect's UI."""

from .test_ui import accepted, artifact, fill, home_of, looked_at


def test_the_report_is_linked(at_work, browser, files, scripts, tmp_path):
    """As an artifact of the run."""
    deployment = at_work.deployments["parallel-run/form"]["id"]

    def start(page):
        page.goto(f"{home_of(at_work, 'v2')}/deployments/deployment/{deployment}/run")
        fill(page, files, tmp_path / "out", scripts)
        return accepted(page)

    run = looked_at(at_work, browser, start)
    assert at_work.final(run["id"])["type"] == "COMPLETED"
    made = artifact(at_work, run["id"], "from-the-form-report")

    def look(page):
        page.goto(f"{home_of(at_work, 'v2')}/artifacts/artifact/{made['id']}")
        page.get_by_text("report.html").first.wait_for()

    looked_at(at_work, browser, look)
