"""A store in memory."""

import fsspec
import pytest


@pytest.fixture
def store():
    """A store that is empty, before and after a test."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
