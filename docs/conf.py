"""How Sphinx builds the documentation. It needs no network; a warning is an error."""

from evac import __version__

project = "evac"
author = "The evac authors"
project_copyright = "The evac authors; Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "evac"
html_show_sourcelink = False
