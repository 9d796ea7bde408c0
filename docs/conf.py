"""Sphinx's settings for the documentation: `make docs` builds it into docs/_build/html/dev."""

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
    "sphinx_copybutton",
    "_site.checked",
    "_site.docstrings",
    "_site.formulas",
    "_site.gallery",
    "_site.generated",
    "_site.llms",
    "_site.single",
    "_site.versions",
]
exclude_patterns = ["_build", "_site", "_static", "_templates"]
html_theme = "pydata_sphinx_theme"
default_role = "code"
nitpicky = True
sphinx_gallery_conf = gallery.SETTINGS
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
html_math_renderer = "mathml"
html_context = {"default_mode": "auto"}
html_title = f"hyperflow {release}"
html_static_path = ["_static"]
html_favicon = "_static/logo.svg"
html_css_files = ["site.css"]
html_js_files = ["version_switch.js"]
templates_path = ["_templates"]
html_theme_options = {
    "logo": {"image_light": "_static/logo.svg", "image_dark": "_static/logo.svg", "text": project, "alt_text": ""},
    "navigation_with_keys": True,
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "navbar_persistent": ["search-button"],
    "navbar_end": ["version-switch", "theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["about-version"],
}
html_sidebars: dict[str, list[str]] = {page: [] for page in ("index", "compared", "faq", "changelog", "cite")}

# The button copies commands without `$ `, and not what they print.
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"
copybutton_here_doc_delimiter = "EOF"
