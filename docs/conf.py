"""How Sphinx makes the site from these pages: `make docs` writes it into build/site."""

# ruff: noqa: INP001  # Sphinx reads this file by itself; it belongs to no package

import re
from pathlib import Path
from typing import Final

from sphinx.application import Sphinx

from luxx import __version__

ROOT: Final = Path(__file__).parents[1]
SHOWN: Final = {"SECURITY.md": "security", "CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog"}
"""Pages of the repository's root that the site shows under `project/`."""

project = "Luxx"
author = "The Luxx authors"
copyright = author  # noqa: A001  # Sphinx's name for it
version = release = __version__
language = "en"

extensions = ["myst_parser"]
nitpicky = True
exclude_patterns = ["_static"]
myst_enable_extensions = ["attrs_block", "colon_fence"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"Luxx {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def led(text: str, to: str) -> str:
    """Lead links to the root's pages to where the site shows them: on GitHub they lead to the files themselves."""
    for name, shown in SHOWN.items():
        text = re.sub(rf"\]\((?:\.\./)*{re.escape(name)}(?=[#)])", f"]({to}project/{shown}.md", text)
    return text


def read_page(_app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = led(source[0], "../" * page.count("/"))


def read_included(_app: Sphinx, _path: Path, _page: str, source: list[str]) -> None:
    source[0] = led(source[0], "docs/")  # the pages that include say where that is


def setup(app: Sphinx) -> None:
    app.connect("source-read", read_page)
    app.connect("include-read", read_included)
