"""New Python interpreters, for tests of what is imported when and of what a user reads."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any


def facts_of(code: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run *code* in a new interpreter; return its dictionary ``facts``, which JSON can hold."""
    done = _run("-c", f"{code}\nimport json\nprint(json.dumps(facts))", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def failure_of(script: str, **environment: str) -> str:
    """Run a script that fails; return the line of its error."""
    done = _run(script, **environment)
    assert done.returncode == 1, done.stderr
    return next(line for line in reversed(done.stderr.splitlines()) if re.match(r"\w+(Error|Exception): ", line))


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
