"""Entry point of a child process; started by its file name, by the interpreter of the step's environment."""

import os
import sys
from types import ModuleType


def _adopt() -> None:
    """Make this folder importable as ``prefect_parallel_run.child``, without the whole package and without a path on sys.path.

    If the real package is installed, the script may import it and finds these same modules in it; if not, a module of that
    name provides EntryScript, NoRetry and RetryLater.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != here]
    package = ModuleType("prefect_parallel_run.child")
    package.__path__ = [here]
    sys.modules[package.__name__] = package


if __name__ == "__main__":
    _adopt()
    from prefect_parallel_run.child.main_loop import main

    main(*(int(descriptor) for descriptor in sys.argv[1:]))
