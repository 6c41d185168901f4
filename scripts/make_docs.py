"""Write the parts of docs/ that are made from the code: `make docs`. With --check, tell whether they are current."""

import sys
from pathlib import Path

from luxx.settings import settings_table

DOCS = Path(__file__).parents[1] / "docs"

SETTINGS = """# Settings

Read once at start, from the environment and from a file `.env` in the working directory; the environment goes
first. A variable that is empty counts as absent. Whatever is wrong is told at once, by name, and the process
ends with status 2. This page is made by `make docs`.

{table}
"""


def main() -> None:
    pages = {DOCS / "settings.md": SETTINGS.format(table=settings_table())}
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv and stale:
        sys.exit(f"not current: {', '.join(path.name for path in stale)}; run `make docs`")
    for path in stale:
        path.write_text(pages[path], encoding="utf-8")


if __name__ == "__main__":
    main()
