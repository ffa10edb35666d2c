"""Tables for people, figures for machines, and what the machine is."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterable
from typing import Any

from measure import OURS, Table

_LIBRARIES = (
    "prefect-parallel-run", "prefect", "dask", "distributed", "pandas", "pyarrow", "numpy",
    "joblib", "prefect-dask", "ray", "pyspark",
)  # fmt: skip


def number(value: float) -> str:
    """Return three digits that count, thousands in groups.

    >>> number(12345.6), number(7.04), number(0.01234), number(0.0)
    ('12,346', '7.04', '0.0123', '0')
    """
    if not math.isfinite(value) or abs(value) < 1e-6:
        return f"{value:.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(float(f"{value:.3g}")))))
    return f"{value:,.{digits}f}"


def as_text(table: Table) -> str:
    """Return a table as lines for a terminal; the baseline is marked, slow engines tell how many rounds they had."""
    against = "ours" if table.baseline == OURS else table.baseline
    heading = "" if table.baseline not in table.values else f"÷ {against}" if len(against) < 15 else "ratio"
    rows = [("", "median", "min", "max", "rounds", heading)]
    for name, values in table.values.items():
        ratio = table.ratio(name)
        figures = (number(table.median(name)), number(min(values)), number(max(values)), str(len(values)))
        mark = "▸ " if name.startswith(OURS) else "  "
        rows.append((mark + name, *figures, "" if ratio is None else f"{ratio:.2f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["", f"{table.workload} · {table.case} · {table.unit}" + (" (more is better)" if table.is_share else "")]
    for position, row in enumerate(rows):
        lines.append("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip())
        if position == 0:
            lines.append("─" * (sum(widths) + 2 * len(widths) - 2))
    lines += [f"  {name}: {note}" for name, note in table.notes.items()]
    lines += [f"  {name}: left out, {why}" for name, why in table.left_out.items()]
    lines += [f"  {name}: FAILED\n{error}" for name, error in table.failed.items()]
    return "\n".join(lines)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name)) is not None},
    }


def as_json(found: Iterable[Table], facts: dict[str, Any]) -> dict[str, Any]:
    """Return all values and ratios, with the machine and the command."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": shlex.join(["python", *sys.argv]),
        "machine": facts,
        "tables": [
            {
                "title": table.title,
                "workload": table.workload,
                "case": table.case,
                "unit": table.unit,
                "baseline": table.baseline,
                "more_is_better": table.is_share,
                "values": table.values,
                "ratio_to_baseline": {name: table.ratio(name) for name in table.values},
                "left_out": table.left_out,
                "failed": table.failed,
                "notes": table.notes,
            }
            for table in found
        ],
    }
