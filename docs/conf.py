"""How `make docs` builds the site: Sphinx with MyST for Markdown and the theme furo."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import lsengine

project = "lsengine"
author = "The lsengine authors"
release = lsengine.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
suppress_warnings = ["myst.header"]  # a page may begin with a level that the one before has not

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
add_module_names = False
default_role = "code"
smartquotes = False  # it would make one dash of the two before an option

html_theme = "furo"
html_title = f"lsengine {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go, .c1"

linkcheck_timeout = 20
linkcheck_workers = 4
