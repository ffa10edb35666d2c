"""``python -m prefect_parallel_run.cli``."""

from __future__ import annotations

import sys

from prefect_parallel_run.cli.app import main

sys.exit(main())
