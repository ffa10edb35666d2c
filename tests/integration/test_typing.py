"""Type checkers understand the public API as users write it."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "typing" / "public_api.py"


@pytest.mark.parametrize(
    "checker", [["mypy", "--strict"], ["pyright", "--pythonpath", sys.executable]], ids=["mypy", "pyright"]
)
def test_a_checker_accepts_the_examples(checker):
    """Each of their assertions states the type that a user gets."""
    command = [sys.executable, "-m", *checker, str(EXAMPLES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=EXAMPLES.parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
