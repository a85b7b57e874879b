"""Configuration of Sphinx: python -m sphinx -W -b html docs docs/_build/html."""

import configparser
import re
import shutil
from pathlib import Path

from fedjax_norm import options

ROOT = Path(__file__).parents[1]
METADATA = configparser.ConfigParser()
METADATA.read(ROOT / "setup.cfg")

project = "fedjax_norm"
author = METADATA["metadata"]["author"]
copyright = author
release = version = METADATA["metadata"]["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"fedjax_norm {release}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_theme_options = {"top_of_page_buttons": []}

nb_execution_mode = "off"  # the notebooks have their outputs
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # an included page begins below a heading of this one

autodoc_typehints = "none"  # the signatures have them; docstrings describe shapes and units
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
add_module_names = False

# Sphinx reads only what lies in this folder.
shutil.rmtree(ROOT / "docs" / "notebooks", ignore_errors=True)
(ROOT / "docs" / "notebooks").mkdir()
for notebook in (ROOT / "notebooks").glob("*.ipynb"):
  shutil.copy(notebook, ROOT / "docs" / "notebooks")


def list_options(app, what, name, obj, config, lines):
  """Adds the options of a config class to its documentation, with their help texts."""
  if not (isinstance(obj, type) and issubclass(obj, options.Options)):
    return
  lines += ["", "Options:", ""]
  for one in options.of(obj):
    default = "" if one.default is None else f" (default: ``{one.default}``)"
    text = re.sub(r"([*|`_])", r"\\\1", one.help)  # as it is, without markup
    lines += [f"- ``{one.name}``{default}: {text}"]
  lines += [""]


def setup(app):
  """Connects the hooks."""
  app.connect("autodoc-process-docstring", list_options)
