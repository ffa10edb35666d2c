"""Configuration of Sphinx, which builds the documentation: ``sphinx-build -W docs docs/_build``."""

import sys
from pathlib import Path
from typing import Any

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

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
add_module_names = False

smartquotes = False  # "--json" stays what users type

html_theme = "furo"
html_title = "prefect_parallel_run"
html_show_sphinx = False


def setup(app: Any) -> None:
    """Adapt what is not written for Sphinx: the help of options, and the example of a block, which Prefect checks."""

    def escape(_app: Any, _ctx: Any, lines: list[str]) -> None:
        """Keep backslashes, which sphinx-click passes to reStructuredText as they are."""
        lines[:] = [line.replace("\\t", "\\\\t") for line in lines]

    def unfence(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
        """Turn Markdown's code fences into code blocks of reStructuredText."""
        indent, result = "", []
        for line in lines:
            if line.strip().startswith("```"):
                indent = "" if indent else "   "
                result += ["", line.replace("```", ".. code-block:: "), ""] if indent else [""]
            else:
                result.append(indent + line)
        lines[:] = result

    app.connect("sphinx-click-process-options", escape)
    app.connect("autodoc-process-docstring", unfence, priority=400)  # before napoleon
