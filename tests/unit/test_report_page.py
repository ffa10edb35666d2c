"""The page of a report: whatever stands in a run is text there, and nothing can leave it or come in."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from prefect_parallel_run.cli import main
from prefect_parallel_run.monitoring.report import write_report
from prefect_parallel_run.monitoring.report.data import collect
from prefect_parallel_run.monitoring.report.over_time import over_time
from prefect_parallel_run.monitoring.report.page import _text, page
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

from ..made_runs import HOSTILE, adjusted, make_run

VOID = {"meta", "br"}
SHAPES = {"rect", "path", "line", "circle"}
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "footer", "section", "article", "script"),
    *("h1", "h2", "h3", "h4", "p", "div", "span", "b", "strong", "small", "code", "pre", "br", "ul", "li", "dl", "dt", "dd"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary"),
    *("svg", "defs", "pattern", "rect", "path", "line", "circle", "text"),
}


class Reader(HTMLParser):
    """Reads a page as a browser does, and keeps what is in it."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.ids = [], set(), set(), []
        self.contents = {"style": [], "script": []}
        self.policy, self.words = "", []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.contents["script"].append([given.get("type"), ""])

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
            self.words.append(data)


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


def test_what_a_run_says_is_text(made):
    """Errors, tracebacks and arguments with tags in them make no element, no attribute and no script."""
    html = page(collect(made.directory, nothing), 0.0)
    reader = read(html)
    assert reader.tags <= ALLOWED
    assert not {name for name in reader.attributes if name.startswith("on") or name in ("style", "src", "href", "action")}
    assert len(reader.ids) == len(set(reader.ids))
    assert [kind for kind, _ in reader.contents["script"]] == ["application/json", None]
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>\\x1b[31m \\u202e & \"'" in "".join(reader.words)
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_names_of_nodes_and_outcomes_are_text_too(made):
    """They come from the ledger as well, and stand in the figures for the script."""
    with Ledger(made.directory.ledger) as ledger:
        ledger._connection.execute("UPDATE attempts SET node = ?, outcome = 'x' || ? WHERE mini_batch = 3", (HOSTILE, HOSTILE))
    reader = read(page(collect(made.directory, nothing), 0.0))
    assert reader.tags <= ALLOWED
    figures = json.loads(reader.contents["script"][0][1])
    assert any(HOSTILE in lane["name"] for lane in figures["lanes"]["lanes"])


def test_the_policy_lets_in_our_own_style_and_script_and_nothing_else(made):
    """By their hashes; no request can leave the page."""
    reader = read(page(collect(made.directory, nothing), 0.0))

    def of(content):
        return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()

    style, script = "".join(reader.contents["style"]), reader.contents["script"][1][1]
    assert reader.policy == (
        f"default-src 'none'; style-src '{of(style)}'; script-src '{of(script)}'; base-uri 'none'; form-action 'none'"
    )
    assert "innerHTML" not in script
    assert not re.search(r"https?:|url\((?!#)|@import", style + script)


def test_the_figures_are_those_of_the_facts(made):
    """Every try is told once."""
    facts = collect(made.directory, nothing)
    _, figures = over_time(facts)
    told = [found for lane in figures["lanes"]["lanes"] for found in lane["tries"]]
    assert len(told) == len({(found[2], found[3]) for found in told}) == made.tries
    assert sum(n for lane in figures["lanes"]["lanes"] for _, _, n in lane["kills"]) == made.kills


def test_tries_in_bins_are_told_as_sums(tmp_path):
    """Where there are too many to draw each."""
    made = make_run(tmp_path / "run", 3_000, fail=0.1)
    _, figures = over_time(collect(made.directory, nothing))
    lanes = figures["lanes"]["lanes"]
    assert sum(sum(lane["good"]) + sum(lane["bad"]) for lane in lanes) == made.tries
    assert sum(sum(lane["bad"]) for lane in lanes) == made.failed_tries
    assert all(0 <= share <= 100 for lane in lanes for share in lane["busy"])


@pytest.mark.parametrize(
    ("status", "words"), [("succeeded", "✓"), ("failed", "✕"), ("cancelled", "■"), ("interrupted", "!"), ("running", "!")]
)
def test_the_status_has_a_shape_and_words(tmp_path, status, words):
    """A run that nobody drives any more is interrupted, whatever it last said."""
    made = make_run(tmp_path / "run", 10, status=status)
    text = "".join(read(page(collect(made.directory, nothing), 0.0)).words)
    assert f"{words} {status.capitalize() if status != 'running' else 'Interrupted'}" in text


def test_what_failed_in_a_run_that_succeeded_stands_in_its_first_line(tmp_path):
    """And not a word of it where all went well."""
    made = make_run(tmp_path / "run", 60, fail=0.0)
    words = "".join(read(page(collect(made.directory, nothing), 0.0)).words)
    assert "Succeeded10 items failed, as the limits allow." in words
    with Ledger(made.directory.ledger) as ledger:
        ledger._connection.execute("UPDATE mini_batches SET state = 'succeeded', succeeded = items, failed = 0")
    assert "as the limits allow" not in page(collect(made.directory, nothing), 0.0)


def test_a_long_traceback_ends_with_what_it_was(made):
    """It wraps, and what is left out is in its middle: the last line is the one that counts."""
    assert "max-height" not in _text("page.css")
    with Ledger(made.directory.ledger) as ledger:
        ledger._connection.execute("UPDATE attempts SET traceback = ?", ("line\n" * 2_000 + "OSError: decisive",))
    assert "OSError: decisive" in "".join(read(page(collect(made.directory, nothing), 0.0)).words)


def test_a_run_without_anything_has_a_page(tmp_path):
    """Planned and never begun; no logs, no plan, no description."""
    directory = RunDirectory(tmp_path / "run")
    directory.make()
    Ledger.create(directory.ledger, [10] * 3).close()
    path = write_report(directory)
    assert path == directory.report
    assert "Not yet begun" in "".join(read(path.read_text()).words)


def test_the_command_writes_it(made, tmp_path, capsys):
    """Beside the run or elsewhere; what is there already is replaced whole."""
    assert main(["report", str(made.directory.path)]) == 0
    assert capsys.readouterr().out.strip() == str(made.directory.report)
    elsewhere = tmp_path / "elsewhere.html"
    elsewhere.write_text("old")
    assert main(["report", str(made.directory.path), "--output", str(elsewhere), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": made.directory.run_id, "report": str(elsewhere)}
    assert read(elsewhere.read_text()).tags <= ALLOWED
    assert main(["report", str(made.directory.path), "--output", str(tmp_path / "nowhere" / "x.html")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_environment_variables_are_told_by_name(made):
    """Their values are not in the run directory at all (test_report_facts.py)."""
    words = "".join(read(page(collect(made.directory, nothing), 0.0)).words)
    assert "Environment variables: API_TOKEN (their values are not kept)." in words


def test_what_was_ordered_is_told_and_marked(made):
    """In the words of the command line, with who did it; what was no order is text too."""
    adjusted(made)
    reader = read(page(collect(made.directory, nothing), 0.0))
    words = "".join(reader.words)
    assert "20 forgiven" in words
    for expected in ("limits error_threshold=20", "ann@host/7", "<b>rubbish", "refused: it is no JSON", "a person ordered"):
        assert expected in words
    assert reader.tags <= ALLOWED


def luminance(colour):
    """Return the relative luminance of ``#rrggbb``, as WCAG 2 has it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_words_can_be_read_in_the_light_and_in_the_dark():
    """A contrast of 4.5 and more for every colour of text on every ground it stands on; 3 for what is drawn."""
    blocks = re.findall(r":root \{([^}]*--ground[^}]*)\}", _text("page.css"))[:2]
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks)
    pairs = [(word, ground, 4.5) for word in ("ink", "quiet", "bad-ink") for ground in ("ground", "card", "soft", "bad-soft")]
    pairs += [(shape, "card", 3.0) for shape in ("ok", "bad-line", "start", "again", "level")]
    for colours in (light, dark):
        for word, ground, least in pairs:
            low, high = sorted(map(luminance, (colours[word], colours[ground])))
            assert (high + 0.05) / (low + 0.05) >= least, (word, ground)
