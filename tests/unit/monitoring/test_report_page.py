"""The page of a report: all data of a run is escaped, and the page sends and loads nothing."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from prefect_parallel_run.cli import main
from prefect_parallel_run.monitoring.report import write_report
from prefect_parallel_run.monitoring.report.data import collect
from prefect_parallel_run.monitoring.report.page import _result_size, page, template_text
from prefect_parallel_run.monitoring.report.timeline import over_time
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

from ...made_runs import HOSTILE, adjusted, make_run

VOID = {"meta", "br"}
SHAPES = {"rect", "path", "line", "circle"}
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "footer", "section", "article", "script"),
    *("h1", "h2", "h3", "h4", "p", "div", "span", "b", "strong", "small", "code", "pre", "br", "ul", "li", "dl", "dt", "dd"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary"),
    *("svg", "defs", "pattern", "rect", "path", "line", "circle", "text"),
}


class Reader(HTMLParser):
    """Parses a page and collects its elements, attributes and texts."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.ids = [], set(), set(), []
        self.contents = {"style": [], "script": []}
        self.policy, self.text = "", []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.contents["script"].append([values.get("type"), ""])

    def handle_startendtag(self, tag, attributes):
        assert tag in SHAPES
        self.attributes |= {name for name, _ in attributes}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.contents["script"][-1][1] += data
        elif self.open and self.open[-1] == "style":
            self.contents["style"].append(data)
        else:
            self.text.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def nothing():
    pass


@pytest.fixture
def made(tmp_path):
    return make_run(tmp_path / "run", 120, fail=0.15, status="failed")


def test_data_of_a_run_is_escaped(made):
    """Tags in errors, tracebacks and arguments create no element, attribute or script."""
    html = page(collect(made.directory, nothing), 0.0)
    reader = read(html)
    assert reader.tags <= ALLOWED
    assert not {name for name in reader.attributes if name.startswith("on") or name in ("style", "src", "href", "action")}
    assert len(reader.ids) == len(set(reader.ids))
    assert [kind for kind, _ in reader.contents["script"]] == ["application/json", None]
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>\\x1b[31m \\u202e & \"'" in "".join(reader.text)
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_names_of_nodes_and_outcomes_are_escaped(made):
    """They come from the ledger too, and are also in the data for the script."""
    with Ledger(made.directory.ledger) as ledger:
        ledger._connection.execute("UPDATE attempts SET node = ?, outcome = 'x' || ? WHERE mini_batch = 3", (HOSTILE, HOSTILE))
    reader = read(page(collect(made.directory, nothing), 0.0))
    assert reader.tags <= ALLOWED
    figures = json.loads(reader.contents["script"][0][1])
    assert any(HOSTILE in lane["name"] for lane in figures["lanes"]["lanes"])


def test_policy_allows_only_the_own_style_and_script(made):
    """By their hashes; the page cannot send a request."""
    reader = read(page(collect(made.directory, nothing), 0.0))

    def hash_of(content):
        return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()

    style, script = "".join(reader.contents["style"]), reader.contents["script"][1][1]
    assert reader.policy == (
        f"default-src 'none'; style-src '{hash_of(style)}'; script-src '{hash_of(script)}'; base-uri 'none'; form-action 'none'"
    )
    assert "innerHTML" not in script
    assert not re.search(r"https?:|url\((?!#)|@import", style + script)


def test_figures_for_the_script_are_complete(made):
    """Every attempt appears exactly once."""
    figures = over_time(collect(made.directory, nothing)).figures
    segments = [segment for lane in figures["lanes"]["lanes"] for segment in lane["tries"]]
    assert len(segments) == len({(segment[2], segment[3]) for segment in segments}) == made.tries
    assert sum(n for lane in figures["lanes"]["lanes"] for _, _, n in lane["kills"]) == made.kills


def test_figures_of_a_large_run_are_sums_per_bin(tmp_path):
    """When there are too many attempts to draw each."""
    made = make_run(tmp_path / "run", 3_000, fail=0.1)
    figures = over_time(collect(made.directory, nothing)).figures
    lanes = figures["lanes"]["lanes"]
    assert sum(sum(lane["good"]) + sum(lane["bad"]) for lane in lanes) == made.tries
    assert sum(sum(lane["bad"]) for lane in lanes) == made.failed_tries
    assert all(0 <= share <= 100 for lane in lanes for share in lane["busy"])


@pytest.mark.parametrize(
    ("status", "symbol"), [("succeeded", "✓"), ("failed", "✕"), ("cancelled", "■"), ("interrupted", "!"), ("running", "!")]
)
def test_status_has_a_symbol_and_a_label(tmp_path, status, symbol):
    """A run without an executing process is interrupted, even if its ledger says running."""
    made = make_run(tmp_path / "run", 10, status=status)
    text = "".join(read(page(collect(made.directory, nothing), 0.0)).text)
    assert f"{symbol} {status.capitalize() if status != 'running' else 'Interrupted'}" in text


def test_a_paused_run_is_paused_while_a_process_executes_it(tmp_path):
    """As `show` says; a pause ends with its process."""
    made = make_run(tmp_path / "run", 10, status="running")
    with Ledger(made.directory.ledger) as ledger:
        ledger.record(paused="1")
    with made.directory.lock():
        assert "‖ Paused" in "".join(read(page(collect(made.directory, nothing), 0.0)).text)
    assert "! Interrupted" in "".join(read(page(collect(made.directory, nothing), 0.0)).text)


@pytest.mark.parametrize(("mini_batches", "is_cut"), [(12, False), (13, True)])
def test_a_list_of_failures_that_is_cut_says_so(tmp_path, mini_batches, is_cut):
    made = make_run(tmp_path / "run", mini_batches, fail=1.0, status="failed")
    report = collect(made.directory, nothing)
    assert report.tally.failed == mini_batches
    text = "".join(read(page(report, 0.0)).text)
    assert f"Failed: {mini_batches} mini-batches" in text
    assert ("The first 12 are shown" in text) == is_cut


def test_status_of_a_successful_run_counts_failed_items(tmp_path):
    """And mentions none if nothing failed."""
    made = make_run(tmp_path / "run", 60, fail=0.0)
    text = "".join(read(page(collect(made.directory, nothing), 0.0)).text)
    assert "Succeeded10 items failed, as the limits allow." in text
    with Ledger(made.directory.ledger) as ledger:
        ledger._connection.execute("UPDATE mini_batches SET state = 'succeeded', succeeded = items, failed = 0")
    assert "as the limits allow" not in page(collect(made.directory, nothing), 0.0)


def test_long_traceback_keeps_its_last_line(made):
    """It wraps and loses its middle: the last line names the error."""
    assert "max-height" not in template_text("page.css")
    with Ledger(made.directory.ledger) as ledger:
        ledger._connection.execute("UPDATE attempts SET traceback = ?", ("line\n" * 2_000 + "OSError: decisive",))
    assert "OSError: decisive" in "".join(read(page(collect(made.directory, nothing), 0.0)).text)


def test_planned_run_has_a_page(tmp_path):
    """It has no logs, no plan and no description."""
    directory = RunDirectory(tmp_path / "run")
    directory.make()
    Ledger.create(directory.ledger, [10] * 3).close()
    path = write_report(directory)
    assert path == directory.report
    assert "Not started" in "".join(read(path.read_text()).text)


def test_command_writes_the_report(made, tmp_path, capsys):
    """In the run directory or elsewhere; an existing file is replaced atomically."""
    assert main(["report", str(made.directory.path)]) == 0
    assert capsys.readouterr().out.strip() == str(made.directory.report)
    elsewhere = tmp_path / "elsewhere.html"
    elsewhere.write_text("old")
    assert main(["report", str(made.directory.path), "--output", str(elsewhere), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": made.directory.run_id, "report": str(elsewhere)}
    assert read(elsewhere.read_text()).tags <= ALLOWED
    assert main(["report", str(made.directory.path), "--output", str(tmp_path / "nowhere" / "x.html")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_report_names_environment_variables_without_values(made):
    """Their values are not stored in the run directory (test_report_facts.py)."""
    text = "".join(read(page(collect(made.directory, nothing), 0.0)).text)
    assert "Environment variables: API_TOKEN (their values are not stored)." in text


def test_report_lists_and_marks_control_commands(made):
    """In command-line syntax with the sender; an invalid command is escaped too."""
    adjusted(made)
    reader = read(page(collect(made.directory, nothing), 0.0))
    text = "".join(reader.text)
    assert "20 allowed" in text
    for expected in ("limits error_threshold=20", "ann@host/7", "<b>rubbish", "refused: not valid JSON", "control command"):
        assert expected in text
    assert reader.tags <= ALLOWED


def luminance(colour):
    """Return the relative luminance of ``#rrggbb`` as defined by WCAG 2."""
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_light_and_dark_colours_have_enough_contrast():
    """At least 4.5 for text on its backgrounds, 3 for shapes."""
    blocks = re.findall(r":root \{([^}]*--ground[^}]*)\}", template_text("page.css"))[:2]
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks)
    pairs = [(text, ground, 4.5) for text in ("ink", "quiet", "bad-ink") for ground in ("ground", "card", "soft", "bad-soft")]
    pairs += [(shape, "card", 3.0) for shape in ("ok", "bad-line", "start", "again", "level")]
    for colours in (light, dark):
        for colour, ground, least in pairs:
            low, high = sorted(map(luminance, (colours[colour], colours[ground])))
            assert (high + 0.05) / (low + 0.05) >= least, (colour, ground)


def test_the_size_of_a_folder_tells_its_number_of_parts():
    """A reader looks for several files then."""
    assert _result_size({"bytes": 3 << 20}) == "3.0 MB"
    assert _result_size({"bytes": 3 << 20, "parts": [{}, {}]}) == "3.0 MB in 2 parts"
    assert _result_size({"bytes": None}) == "published"
    assert _result_size(None) == "not published"
