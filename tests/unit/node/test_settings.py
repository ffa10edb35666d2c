"""The settings that a node receives."""

from dataclasses import replace

from prefect_parallel_run.environments import EnvironmentPlan
from prefect_parallel_run.node.settings import Bundle, NodeSettings

from ..dispatch.test_node_pool import SETTINGS


def test_settings_survive_a_line():
    """As one line, with file names that are not UTF-8; a list in csv_options stays a list."""
    script = replace(SETTINGS.script, path="/\udcff.py", arguments=("a\nb",), bundle=Bundle("sha", "", "s.py"))
    interpreter = replace(SETTINGS.interpreter, source=EnvironmentPlan(requirements=("six",)), variables={"TOKEN": "é"})
    rows = replace(SETTINGS.rows, csv_options={"columns": ["a"], "na_rep": ""})
    settings = replace(SETTINGS, script=script, interpreter=interpreter, rows=rows).with_node(name="node-3")
    line = settings.to_line()
    assert line.count(b"\n") == 1
    assert NodeSettings.from_line(line) == settings
    assert settings.prefix == "node-3."
