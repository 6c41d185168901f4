"""The documentation site: whole, without a dead end, and all of it from this machine."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BESIDE = {"genindex.html", "search.html"}
"""Pages that Sphinx makes by itself: led to by the theme's scripts and by browsers, not by links of a page."""


@dataclass
class Page(HTMLParser):
    """What a page names: where its links lead, what a browser loads for it, and where it can be jumped to."""

    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        if "id" in named:
            self.anchors.add(named["id"])
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        if tag == "img":
            self.pictures.append((named.get("src", ""), named.get("alt", "")))
        for name in ("src", "srcset", "data", "poster"):
            if name in named:
                self.loaded.append(named[name])
        if tag == "link" and not {"index", "search", "next", "prev", "author"} & set(named.get("rel", "").split()):
            self.loaded.append(named.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does; fails where Sphinx has anything to warn of."""
    place = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "--nitpicky"]
    built = subprocess.run(
        [*command, "--doctree-dir", place / "doctrees", DOCS, place / "site"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    return place / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    found = {}
    for path in site.rglob("*.html"):
        if "_downloads" in path.parts:
            continue
        found[path] = Page()
        found[path].feed(path.read_text(encoding="utf-8"))
    return found


def within(page: Path, links: list[str]) -> Iterator[tuple[Path, str]]:
    """Give the files that links of a page lead to on the site, and the anchors in them."""
    for link in links:
        parts = urlsplit(link)
        if not parts.scheme and not parts.netloc:
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            yield (target / "index.html" if target.is_dir() else target), unquote(parts.fragment)


def test_every_page_of_the_docs_is_on_the_site_and_can_be_reached_from_its_first_page(
    site: Path, pages: dict[Path, Page]
) -> None:
    written = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert {site / name for name in written} <= pages.keys()
    reached: set[Path] = set()
    waiting = [site / "index.html"]
    while waiting:
        page = waiting.pop()
        if page in reached or page not in pages:
            continue
        reached.add(page)
        waiting += [target for target, _ in within(page, pages[page].links)]
    assert {str(path.relative_to(site)) for path in pages.keys() - reached} <= BESIDE


def test_every_link_leads_to_a_page_and_a_place_that_are_there(site: Path, pages: dict[Path, Page]) -> None:
    dead = [
        f"{page.relative_to(site)}: {target.name}#{anchor}"
        for page, read in pages.items()
        for target, anchor in within(page, read.links)
        if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors)
    ]
    assert dead == []


def test_no_page_loads_anything_from_another_host(site: Path, pages: dict[Path, Page]) -> None:
    foreign = [
        f"{page.name}: {name}"
        for page, read in pages.items()
        for name in read.loaded
        if urlsplit(name).scheme not in {"", "data"} or urlsplit(name).netloc
    ]
    for sheet in [*site.rglob("*.css"), *site.rglob("*.svg")]:
        text = sheet.read_text(encoding="utf-8")
        named = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)|href=['\"]([^'\"]+)", text)
        foreign += [f"{sheet.name}: {name}" for found in named for name in found if re.match(r"(\w+:)?//", name)]
    for script in site.rglob("*.js"):
        text = script.read_text(encoding="utf-8")
        calls = re.findall(r"(?:fetch|import|importScripts|open|\.src\s*=|\.href\s*=)\s*\(?\s*['\"`](https?:)?//", text)
        foreign += [f"{script.name}: {call}" for call in calls]
    assert foreign == []


def test_every_file_that_a_page_loads_is_there_and_every_picture_is_told_in_words(pages: dict[Path, Page]) -> None:
    missing = [
        f"{page.name}: {target.name}"
        for page, read in pages.items()
        for target, _ in within(page, read.loaded)
        if not target.exists()
    ]
    assert missing == []
    shown = {Path(source).name: words for read in pages.values() for source, words in read.pictures}
    assert {"hexagon.svg", "turn.svg"} <= shown.keys()
    assert all(len(words.split()) > 5 for words in shown.values())


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        ("client -> nobody: hello", "should be like"),
        ("client to log", "should be like"),
        ("client -> log: " + "honorificabilitudinitatibus" * 3, "needs about"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused_and_not_drawn_wrong(step: str, fault: str, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "scripts/pictures.py")
    assert spec is not None
    assert spec.loader is not None
    pictures: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    source = (DOCS / "pictures/turn.toml").read_text(encoding="utf-8")
    bad = source.replace("steps = [", f'steps = ["{step}",')
    (tmp_path / "bad.toml").write_text(bad, encoding="utf-8")
    with pytest.raises(pictures.CannotDraw, match=fault):
        pictures.drawn_pictures(tmp_path)
