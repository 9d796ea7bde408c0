"""Sphinx's settings for the documentation: `make docs` builds it into docs/_build/html."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from _site import gallery

import hyperflow

project = "hyperflow"
author = "The hyperflow authors"
copyright = "The hyperflow authors"  # noqa: A001 (Sphinx's name)
version = release = hyperflow.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_gallery.gen_gallery",
    "_site.docstrings",
    "_site.generated",
]
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
default_role = "code"
nitpicky = True
sphinx_gallery_conf = gallery.SETTINGS
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
html_title = f"hyperflow {release}"
html_theme_options = {
    "navigation_with_keys": True,
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": []}
