"""Entry point of a child process; started by its file name, by whatever interpreter the step's environment has."""

import os
import sys
from types import ModuleType


def _adopt() -> None:
    """Make this folder importable as ``prefect_parallel_run.child``, without our package and without its folder on sys.path.

    The script may import the real package (where it is installed) and then finds these same modules in it; where it is
    not installed, a module of that name offers EntryScript and NoRetry.
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
