"""The command line ``prefect-parallel-run``: a module per command, or two alike; app.py assembles them."""

from __future__ import annotations

from prefect_parallel_run.cli.app import main

__all__ = ["main"]
