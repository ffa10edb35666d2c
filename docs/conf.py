"""Configuration of Sphinx, which builds the documentation: ``sphinx-build -W docs docs/_build``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from prefect_parallel_run import __version__

project = "prefect_parallel_run"
author = "the prefect_parallel_run developers"
copyright = f"2026, {author}"  # noqa: A001  Sphinx's name for it
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "configuration"]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other packages: their documentation is not at hand without a network

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
add_module_names = False

html_theme = "furo"
html_title = "prefect_parallel_run"
html_static_path = ["_static"]
html_show_sphinx = False
