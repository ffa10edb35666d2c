"""Drawings of what was measured: engines side by side, and what grows with the number of mini-batches. Readable in grey."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from measure import OURS, Table
from show import number

_INK, _OURS, _OTHERS = "#222222", "#222222", "#b8b8b8"
_MARKERS = "osD^vP"


def draw(found: Iterable[Table], folder: Path) -> list[Path]:
    """Draw every table with more than one engine, and n-scaling as a whole; return the files."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "figures"})
    folder.mkdir(parents=True, exist_ok=True)
    tables = list(found)
    scaling = [table for table in tables if table.workload == "n-scaling"]
    drawn = [_bars(table, folder) for table in tables if table not in scaling and len(table.values) > 1]
    return drawn + ([_scaling(scaling, folder)] if scaling else [])


def _bars(table: Table, folder: Path) -> Path:
    """Draw medians as bars, with what was seen as a line across; a log scale where they lie far apart."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    names = sorted(table.values, key=table.median, reverse=not table.is_share)
    medians = [table.median(name) for name in names]
    figure, axes = plt.subplots(figsize=(7, 0.7 + 0.27 * len(names)), layout="constrained")
    axes.barh(names, medians, color=[_OURS if name.startswith(OURS) else _OTHERS for name in names], height=0.7)
    if min(medians) > 0 and max(medians) > 20 * min(medians):
        axes.set_xscale("log")
        axes.set_xlim(left=min(medians) / 3)
        axes.xaxis.set_minor_formatter(NullFormatter())
    for position, name in enumerate(names):
        axes.plot([min(table.values[name]), max(table.values[name])], [position, position], color="#777777", linewidth=1.5)
        ratio = table.ratio(name)
        words = f" {number(table.median(name))}" + ("" if ratio is None else f"  ({ratio:.2f})")
        axes.annotate(words, (max(table.values[name]), position), va="center", fontsize=8, color=_INK)
    axes.set_title(f"{table.workload}, {table.case}", loc="left", fontsize=10)
    axes.set_xlabel(f"{table.unit}; in brackets the ratio to {table.baseline}")
    axes.margins(x=0.18)
    return _save(figure, folder / f"{_slug(f'{table.workload} {table.case} {table.unit}')}.svg")


def _scaling(tables: list[Table], folder: Path) -> Path:
    """Draw every quantity over the number of mini-batches, log-log, as a multiple of its first value."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for table, marker in zip(tables, _MARKERS, strict=False):
        numbers = [int(name.split()[0].replace(",", "")) for name in table.values]
        values = [table.median(name) for name in table.values]
        words = f"{table.unit}: {' · '.join(number(value) for value in values)}"
        axes.plot(numbers, [max(value, 1e-3) for value in values], marker=marker, color=_INK, linewidth=1, label=words)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("mini-batches")
    axes.set_title("What grows with the number of mini-batches", loc="left", fontsize=10)
    figure.legend(loc="outside lower left", frameon=False, fontsize=8)
    return _save(figure, folder / "n-scaling.svg")


def _save(figure: object, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path)
    plt.close(figure)
    return path


def _slug(text: str) -> str:
    """Return a file name for a table.

    >>> _slug("no-op 1,000 mini-batches µs per mini-batch")
    'no-op-1000-mini-batches-us-per-mini-batch'
    """
    plain = text.lower().replace(",", "").replace("µ", "u").replace("÷", "per").replace("%", "percent")
    return re.sub(r"[^a-z0-9.]+", "-", plain).strip("-")
