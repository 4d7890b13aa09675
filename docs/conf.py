"""The documentation: `python -m sphinx -W docs build/docs`."""

import pathlib
import sys

_DOCS = pathlib.Path(__file__).parent
sys.path[:0] = [str(_DOCS), str(_DOCS.parent)]

import skd_jax  # noqa: E402

project = "skd_jax"
author = "The skd_jax authors"
copyright = author
version = release = skd_jax.__version__

extensions = [
  "myst_parser",
  "plain_docstrings",  # Before napoleon, which reads what it leaves.
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "table_checks",
]
exclude_patterns = ["_build"]

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 78
add_module_names = False
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_title = "skd_jax"
html_theme_options = {"show_navbar_depth": 2, "show_toc_level": 2}
html_show_copyright = False
