"""How Sphinx builds the documentation: `python -m sphinx -W --keep-going -b html docs docs/_build/html`."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))  # our own directives, which are no distribution

project = "testorch"
author = "the testorch developers"
copyright = author
release = version = version_of("testorch")  # of what is installed, which is what the reference is generated from

extensions = ["myst_parser", "sphinx.ext.autodoc", "testorch_reference"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"testorch {version}"

# Links such as `[the fold](../explanation/fold.md#what-it-promises)` may point at a heading.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

# Docstrings write names in single backquotes, as the rest of the project's text does.
default_role = "literal"
autodoc_member_order = "bysource"  # the order in which an author reads them
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

# Log lines, console output and half a document are shown as they are, not tried as some language.
highlight_language = "text"
