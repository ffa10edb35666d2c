"""The command line ``prefect-parallel-run``: one module per command; program.py puts them together."""

from __future__ import annotations

from prefect_parallel_run.cli.app import main

__all__ = ["main"]
