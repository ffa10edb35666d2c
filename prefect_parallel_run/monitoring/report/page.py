"""The page: all sections in one self-contained document.

All data of the run is escaped (html.py). A content security policy in the page allows its own style and script by their hashes
and nothing else: the page cannot send a request.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from prefect_parallel_run.monitoring.report.charts import PATTERNS
from prefect_parallel_run.monitoring.report.data import ReportData
from prefect_parallel_run.monitoring.report.details import configuration, durations, executions
from prefect_parallel_run.monitoring.report.failures import failures
from prefect_parallel_run.monitoring.report.format import STATUS, moment
from prefect_parallel_run.monitoring.report.html import Html, el, embedded, join
from prefect_parallel_run.monitoring.report.summary import counts, head, limits_section, result_line
from prefect_parallel_run.monitoring.report.timeline import over_time


def page(report: ReportData, now: float) -> str:
    """Return the report of a run as HTML; *now* is the current Unix time."""
    style, script = _text("page.css"), _text("page.js")
    timeline, figures = over_time(report)
    step = report.description.get("step", report.run_id)
    status = STATUS.get(report.status, ("", report.status))[1]
    has_succeeded = report.status == "succeeded"  # then failures come after the counts
    return "<!DOCTYPE html>\n" + el(
        "html",
        el(
            "head",
            el("meta", charset="utf-8"),
            el("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
            el("meta", name="viewport", content="width=device-width, initial-scale=1"),
            el("meta", name="color-scheme", content="light dark"),
            el("title", f"{step}: {status.lower()}"),
            Html(f"<style>{style}</style>"),
        ),
        el(
            "body",
            PATTERNS,
            el(
                "main",
                head(report),
                None if has_succeeded else failures(report),
                counts(report),
                limits_section(report),
                timeline,
                failures(report) if has_succeeded else None,
                durations(report),
                configuration(report),
                executions(report),
            ),
            el("footer", result_line(report), el("p", f"Created {moment(now)}. Times are UTC.", class_="quiet")),
            el("div", id="tip", role="status", aria_live="polite", hidden=True),
            join(Html('<script type="application/json" id="figures">'), embedded(figures), Html("</script>")),
            Html(f"<script>{script}</script>"),
        ),
        lang="en",
    )


def _policy(style: str, script: str) -> str:
    return f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _text(name: str) -> str:
    return Path(__file__).with_name("templates").joinpath(name).read_text(encoding="utf-8")
