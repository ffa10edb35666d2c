"""Facts about a new Python interpreter, for tests of what is imported when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def facts_of(code: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run *code* in a new interpreter; return its dictionary ``facts``, which JSON can hold."""
    program = f"{code}\nimport json\nprint(json.dumps(facts))"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
