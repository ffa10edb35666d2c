"""Phrases that a reader of technical English stumbles over stay out of the package and its texts."""

import re

import pytest

from .test_layering import PACKAGE

PHRASES = {
    r"\b(?:gone|go|goes|going|went) on (?:with|from)\b": "resume, continue",
    r"\b(?:take|takes|taking|took) note\b": "record",
    r"\b(?:nobody|somebody|whoever|whatever)\b": "name the component",
    r"\b(?:mend|mends|mended|mending)\b": "fix",
    r"\banew\b": "again, new",
    r"\bha(?:s|ve|d) not (?:the|a|an|any|got)\b": "lacks, does not have",
    r"\b(?:whole numbers?|truth values?)\b": "integers, booleans",
    r"\b(?:bring|brings|brought|come|comes|came|take|takes|took) home\b": "fetch, return, receive",
    r"; accepted: ": "expected",
    r"# noqa: [A-Z0-9, ]+ +the same$": "give the reason, or ignore per file",
}
FILES = sorted(
    [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.js"), *PACKAGE.parent.glob("*.md"), *(PACKAGE.parent / "docs").rglob("*.md")]
)


@pytest.mark.parametrize("phrase", PHRASES)
def test_phrase_is_not_used(phrase):
    """The replacement is a word that the documentation of Python, Dask and Prefect uses."""
    pattern = re.compile(phrase, re.IGNORECASE)
    places = [
        f"{path.relative_to(PACKAGE.parent)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not places, f"write instead: {PHRASES[phrase]}"
