"""What is added to the message of a failure inside pandas 3."""

import linecache
import sys
import types
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest

from prefect_parallel_run.child.failure import describe

for_pandas_3 = pytest.mark.skipif(int(pd.__version__.split(".")[0]) < 3, reason="advice for pandas 3 only")
SHOWN = f"pandas {pd.__version__} is installed"
HOW = 'environment=Environment(requirements=["pandas<3", …])'
START = """\
import numpy as np
import pandas as pd
from types import SimpleNamespace

frame = pd.DataFrame({"a": [1, 2], "s": ["x", "y"], "d": pd.date_range("2020", periods=2)})
named = pd.Series([1, 2], index=["a", "b"])


def concat(values):
    return int(values)


class Broken(TypeError):
    def __str__(self):
        raise ValueError("no words")


def broken():
    raise Broken


def wrapped():
    try:
        return frame.applymap(str)
    except AttributeError as error:
        raise RuntimeError("no model") from error


def run():
"""
BREAKS = {  # on pandas 3, and works on pandas 2
    "frame.applymap(str)": "AttributeError",
    "frame.fillna(method='ffill')": "TypeError",
    "frame['a'].replace(1, method='ffill')": "TypeError",
    "frame.to_csv(None, ';')": "TypeError",
    "frame[['a']].groupby(level=0, axis=1).sum()": "TypeError",
    "pd.read_csv('x.csv', delim_whitespace=True)": "TypeError",
    "pd.to_datetime(['2020-01-01'], infer_datetime_format=True)": "TypeError",
    "pd.to_numeric(frame['s'], errors='ignore')": "ValueError",
    "frame.resample('M', on='d').sum(numeric_only=True)": "ValueError",
    "frame.loc.__setitem__((0, 's'), 5)": "TypeError",
    "frame.interpolate()": "TypeError",
    "named[0]": "KeyError",
    "wrapped()": "RuntimeError",
}
OTHERS = {  # raised by the script, or by what it does outside pandas
    "int('x')": "ValueError",
    "None + 1": "TypeError",
    "None.x": "AttributeError",
    "frame['a'].apply(lambda value: int('x'))": "ValueError",
    "np.zeros(3) + np.zeros(4)": "ValueError",
    "concat('x')": "ValueError",
    "concat('x', errors='ignore')": "TypeError",
    "np.concat('x', errors='ignore')": "TypeError",
    "broken()": "Broken",
    "SimpleNamespace(1, 2)": "TypeError",
    "frame['missing']": "KeyError",
    "{}[0]": "KeyError",
    "1 / 0": "ZeroDivisionError",
}


def failure(line, start="# a script of Azure\n"):
    """The description of what a script raises that calls *line*."""
    source = f"{start}{START}    return {line}\n"
    namespace = {"__name__": "score"}
    with patch.dict(linecache.cache, {"score.py": (len(source), None, source.splitlines(keepends=True), "score.py")}):
        exec(compile(source, "score.py", "exec"), namespace)
        try:
            namespace["run"]()
        except Exception as error:  # noqa: BLE001  the one that is described
            return describe(error.with_traceback(error.__traceback__.tb_next))  # without the frame of this test
    raise AssertionError(f"{line} raised nothing")


@pytest.fixture(autouse=True)
def _without_azure(monkeypatch):
    for name in ("azureml", "azureml_user"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@for_pandas_3
@pytest.mark.parametrize("line", BREAKS)
def test_a_failure_inside_pandas_recommends_an_older_one(line):
    """After the error's own message, whose first line is unchanged."""
    found = failure(line)
    first, _, more = found.text.partition("\n")
    assert found.type == BREAKS[line]
    assert SHOWN not in first
    assert SHOWN in more
    assert HOW in more


@pytest.mark.parametrize("line", OTHERS)
def test_other_failures_get_no_advice(line):
    """Whether pandas calls the script or is only loaded."""
    if line.startswith("np.concat(") and not hasattr(np, "concat"):
        pytest.skip("numpy.concat is new in numpy 2")
    found = failure(line)
    assert found.type.removeprefix("score.") == OTHERS[line]
    assert "pandas<3" not in found.text


@for_pandas_3
def test_names_missing_in_pandas_2_need_pandas_1():
    """Otherwise the next run would fail the same way."""
    for line in ("frame.append(frame)", "pd.Int64Index([1])"):
        assert HOW in failure(line).text
        assert 'requirements=["pandas<2", "numpy<2", …]' in failure(line).text
    assert "pandas<2" not in failure("frame.applymap(str)").text


@for_pandas_3
def test_only_scripts_for_azure_are_advised(monkeypatch):
    """They mention it, or have imported something of it; others were written for whatever pandas they run with."""
    assert "pandas<3" not in failure("frame.applymap(str)", start="").text
    monkeypatch.setitem(sys.modules, "azureml", types.ModuleType("azureml"))
    assert HOW in failure("frame.applymap(str)", start="").text


def test_an_older_pandas_gets_no_advice(monkeypatch):
    """It is already what the advice recommends."""
    monkeypatch.setattr(pd, "__version__", "2.3.3")
    assert "pandas<3" not in failure("frame.applymap(str)").text


def test_failures_of_our_own_calls_get_no_advice():
    """Reading a table uses pandas too."""
    try:
        exec("pd.to_numeric('x')", {"__name__": "prefect_parallel_run.child.reading", "pd": pd})
    except ValueError as error:
        frames = error.with_traceback(error.__traceback__.tb_next)  # that of this test left out
        assert "pandas<3" not in describe(frames).text


def test_ambiguous_class_names_get_no_advice(monkeypatch):
    """The message does not identify the class."""
    other = types.ModuleType("other_frames")
    other.NDFrame = type("NDFrame", (), {"__module__": "other_frames"})
    monkeypatch.setitem(sys.modules, "other_frames", other)
    assert "pandas<3" not in failure("frame.fillna(method='ffill')").text
