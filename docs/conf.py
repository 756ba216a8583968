"""Sphinx's settings: pages in MyST Markdown, the reference from the NumPy docstrings. ``make docs`` builds them."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from inventories import mapping

project = "flwr-anomaly"
author = "the flwr-anomaly engineers"
project_copyright = author
release = installed("flwr-anomaly")
version = release

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.intersphinx", "sphinx_copybutton"]
intersphinx_mapping = mapping(Path(__file__).parent / "_build" / "inventories")
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"flwr-anomaly {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]

# Headings are targets of links such as `page.md#a-heading`, as on GitHub.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
# Prompts are not copied with a command.
copybutton_exclude = ".linenos, .gp"

autodoc_typehints = "none"  # the docstrings give types in words
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
