"""The pipe through which a trial shows prints; the processes that write to it are threads here."""

from __future__ import annotations

import io
import tempfile
from contextlib import redirect_stderr
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_parallel_run.execution.trial import printing_on_stderr


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.binary(), st.text().map(str.encode), st.integers(1, 300).map(lambda n: b"x" * (n << 10)))))
def test_every_byte_in_a_pipe_is_printed_once_and_in_order(writes):
    """However many processes write one after the other, and wherever they cut a character; the last line is ended."""
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO(newline="")) as stderr:
        pipe = Path(folder, "prints")
        with printing_on_stderr(pipe) as printing:
            for write in writes:
                with pipe.open("ab", buffering=0) as process:
                    process.write(write)
    text = b"".join(writes).decode("utf-8", "backslashreplace")
    assert stderr.getvalue() == (text if not text or text.endswith("\n") else f"{text}\n")
    assert text.endswith(printing.result()[-2_000:])
    assert len(printing.result()) >= min(len(text), 2_000)
