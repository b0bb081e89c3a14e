"""Sphinx: MyST pages plus the package's own docstrings."""

from semivss import __version__

project = "semivss"
author = "The semivss developers"
copyright = "2026, the semivss developers"  # noqa: A001 (Sphinx's name)
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"semivss {version}"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shape strings are in the signatures' sources; rendering them as types confuses more than it helps
exclude_patterns = ["_build"]
nitpicky = False
