"""The port of search engines."""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

TITLE_CHARACTERS: Final = 300
SNIPPET_CHARACTERS: Final = 1_000
URL_CHARACTERS: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """One result: plain text without markup, and an http(s) address."""

    title: str
    url: str
    snippet: str


class SearchEngine(Protocol):
    """Finds pages of the web."""

    @property
    def name(self) -> str:
        """What the engine is called, for people."""
        ...

    async def search(self, query: str, *, limit: int) -> Sequence[SearchHit]:
        """Find at most `limit` pages, the best first; none is no error.

        Raises `ToolBroken` where the engine fails or refuses, `ToolTimeout` where it is too slow.
        """
        ...


def hits_of(items: Iterable[Any], *, title: str, url: str, snippet: str, limit: int) -> tuple[SearchHit, ...]:
    """Read hits from an engine's objects by the names of its keys; what is no hit is left out, and so are repeats."""
    found: dict[str, SearchHit] = {}
    for item in items:
        if not isinstance(item, dict):
            continue
        address = str(item.get(url) or "").strip()
        if not re.match(r"https?://[^\s/]", address, re.IGNORECASE) or len(address) > URL_CHARACTERS:
            continue
        hit = SearchHit(
            title=_plain(item.get(title), TITLE_CHARACTERS) or address,
            url=address,
            snippet=_plain(item.get(snippet), SNIPPET_CHARACTERS),
        )
        found.setdefault(address, hit)
    return tuple(found.values())[:limit]


def _plain(text: object, most: int) -> str:
    """Give text without tags, entities, control characters and surplus blanks."""
    bare = html.unescape(re.sub(r"<[^<>]{1,200}>", "", str(text or "")[: most * 4]))
    words = " ".join("".join(c if c.isprintable() else " " for c in bare).split())
    return words if len(words) <= most else words[:most] + "…"
