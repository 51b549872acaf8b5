# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How Sphinx builds the documentation: ``nox -s docs``.

The pages are plain reStructuredText wherever that will do, with links to files (``brokers.rst``), so that they can be
read in the repository as well.  ``docs/extension.py`` turns that into the site, and checks it.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from dramatiq_inflight.version import __version__  # noqa: E402

project = "dramatiq_inflight"
author = "The dramatiq_inflight authors"
copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "docs.extension",
]
exclude_patterns = ["_build", "benchmarks"]  # the tables in there are included
nitpicky = True
# Without the network there is nothing to look the names of other projects up in.
nitpick_ignore_regex = [(r"py:.*", r"(?!dramatiq_inflight\b).*|.*\.T")]  # T: of a generic function
default_role = "py:obj"
# A block without a language is text, or what a terminal shows.
highlight_language = "text"
smartquotes = False  # "--option" is no dash

# As the docstrings are written: "Parameters:", "Raises:", and nothing of NumPy's.
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "undoc-members": True}
python_maximum_signature_line_length = 88
add_module_names = False

# A ">>>" in a page is tried, with a Redis of its own: see docs/examples.py.
doctest_global_setup = "from docs.examples import *\n"
doctest_global_cleanup = "clean_up()\n"

html_theme = "furo"
html_title = f"dramatiq_inflight {release}"
html_static_path = ["static"]
html_favicon = "../dramatiq_inflight/dashboard/static/icon.svg"
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sphinx = False
# What is copied of a block with prompts: the commands, without prompts, output and the empty lines between.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_copy_empty_lines = False
