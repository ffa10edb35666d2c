"""The command line ``prefect-parallel-run``: one module per command or pair of commands; app.py assembles them."""

from __future__ import annotations

from prefect_parallel_run.cli.app import main

__all__ = ["main"]
