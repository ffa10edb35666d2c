"""The page: all sections in one document that needs nothing else, and lets nothing else in.

What comes from the run is text wherever it stands (elements.py). A policy in the page itself allows its own style and script by
their hashes, and nothing beside them: no request can leave it.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from prefect_parallel_run.monitoring.report.charts import PATTERNS
from prefect_parallel_run.monitoring.report.data import Facts
from prefect_parallel_run.monitoring.report.details import asked_for, durations, made_with
from prefect_parallel_run.monitoring.report.failures import failures
from prefect_parallel_run.monitoring.report.format import STATUS, moment
from prefect_parallel_run.monitoring.report.html import Html, el, embedded, join
from prefect_parallel_run.monitoring.report.over_time import over_time
from prefect_parallel_run.monitoring.report.summary import counts, head, limits_section, result_line


def page(facts: Facts, now: float) -> str:
    """Return the report of a run as HTML; *now* is the Unix time at which it is made."""
    style, script = _text("page.css"), _text("page.js")
    timeline, figures = over_time(facts)
    step = facts.description.get("step", facts.run_id)
    status = STATUS.get(facts.status, ("", facts.status))[1]
    is_well = facts.status == "succeeded"  # what failed nevertheless is not the first thing to know
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
                head(facts),
                None if is_well else failures(facts),
                counts(facts),
                limits_section(facts),
                timeline,
                failures(facts) if is_well else None,
                durations(facts),
                asked_for(facts),
                made_with(facts),
            ),
            el("footer", result_line(facts), el("p", f"Made {moment(now)}. Times are UTC.", class_="quiet")),
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
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
