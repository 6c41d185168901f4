"""Write the parts of docs/ that are made from the code: `make docs`. With --check, tell whether they are current."""

import sys
from pathlib import Path

from http_reference import http_reference
from pictures import drawn_pictures

from luxx.adapters.system import utc_now
from luxx.adapters.tools.loading import load_tools
from luxx.adapters.tools.reference import reference
from luxx.adapters.tools.resources import ToolResources
from luxx.settings import settings_table

DOCS = Path(__file__).parents[1] / "docs"

SETTINGS = """# Settings

Read once at start, from the environment and from a file `.env` in the working directory; the environment goes
first. A variable that is empty counts as absent. Whatever is wrong is told at once, by name, and the process
ends with status 2. This page is made by `make docs`.

{table}
"""


def with_reference(page: str) -> str:
    """Put the reference of the built-in tools between its marks."""
    before, _, rest = page.partition("<!-- reference -->")
    _, _, after = rest.partition("<!-- /reference -->")
    tools = reference(load_tools(ToolResources.open(utc_now)))
    return f"{before}<!-- reference -->\n{tools}\n<!-- /reference -->{after}"


def main() -> None:
    pages = {
        DOCS / "settings.md": SETTINGS.format(table=settings_table()),
        DOCS / "tools.md": with_reference((DOCS / "tools.md").read_text(encoding="utf-8")),
        DOCS / "http-reference.md": http_reference(),
        **drawn_pictures(DOCS / "pictures"),
    }
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv and stale:
        sys.exit(f"not current: {', '.join(path.name for path in stale)}; run `make docs`")
    for path in stale:
        path.write_text(pages[path], encoding="utf-8")


if __name__ == "__main__":
    main()
