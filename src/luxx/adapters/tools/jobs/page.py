"""What a page says: its title and main content, or its links."""

import base64
import codecs
import json
import re
from typing import Any, Final

from luxx.domain.errors import ToolRefused

CONTENT_CHARACTERS: Final = 200_000
LINKS: Final = 500
_TITLE_CHARACTERS: Final = 500
_LINK_CHARACTERS: Final = 2_000
_DEPTH: Final = 400
_LARGE: Final = 20_000
"""Elements from which on looking for the main content takes longer than it is worth: it grows with their square."""

_PAGES: Final = {"text/html", "application/xhtml+xml"}
_TEXTS: Final = re.compile(r"text/.*|application/(?:.*\+)?(?:json|xml)|application/(?:yaml|x-yaml|toml|javascript)")

# Labels that name a subset of what pages really use (https://encoding.spec.whatwg.org/#names-and-labels).
_WIDER: Final = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "tis-620": "cp874",
}


def read_page(body: str, media_type: str, charset: str, url: str, form: str) -> dict[str, Any]:
    """Read a page. `body` is base64; `form` is `markdown`, `text` or `links`.

    Gives `title` and, by the form, `content` with `truncated`, or `links` of `url` and `text`. Raises
    `ToolRefused` for what is no text.
    """
    raw = base64.b64decode(body)
    kind = media_type or _guessed(raw)
    if kind not in _PAGES and not _TEXTS.fullmatch(kind):
        raise ToolRefused(f"this is {kind}, not a page of text")
    text = _decoded(raw, charset, html=kind in _PAGES)
    if kind not in _PAGES:
        if form == "links":
            raise ToolRefused(f"this is {kind}: only HTML pages have links")
        return {"title": None, **_content(_tidy_json(text) if "json" in kind else text)}
    return _of_html(text, url, form)


def _guessed(raw: bytes) -> str:
    head = raw[:1024].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")) or b"<body" in head or b"<head" in head:
        return "text/html"
    return "application/octet-stream" if b"\0" in raw[:1024] else "text/plain"


def _decoded(raw: bytes, charset: str, *, html: bool) -> str:
    """Decode by, in this order: the byte order mark, the header, the page itself, UTF-8, a guess."""
    for mark, codec in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if raw.startswith(mark):
            return raw[len(mark) :].decode(codec, errors="replace")
    declared = re.search(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{1,40})", raw[:4096], re.IGNORECASE)
    for label in (charset, declared[1].decode("ascii") if html and declared else ""):
        codec = _codec(label)
        if codec:
            return raw.decode(codec, errors="replace")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return _guess(raw)


def _codec(label: str) -> str:
    try:
        found = codecs.lookup(label.strip())
    except (LookupError, ValueError):
        return ""
    # Some codecs of Python's turn no bytes into text.
    if not getattr(found, "_is_text_encoding", True) or found.name in {
        "idna",
        "punycode",
        "unicode_escape",
        "undefined",
    }:
        return ""
    return _WIDER.get(found.name, found.name)


def _guess(raw: bytes) -> str:
    from charset_normalizer import from_bytes  # noqa: PLC0415 - only the worker that needs it carries it

    best = from_bytes(raw[:20_000]).best()
    return raw.decode(_codec(best.encoding) if best is not None else "cp1252", errors="replace")


def _tidy_json(text: str) -> str:
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=1)
    except (ValueError, RecursionError):
        return text


def _content(text: str) -> dict[str, Any]:
    clean = text.replace("\0", "").strip()
    return {"content": clean[:CONTENT_CHARACTERS], "truncated": len(clean) > CONTENT_CHARACTERS}


def _of_html(text: str, url: str, form: str) -> dict[str, Any]:
    from lxml import etree, html  # type: ignore[import-untyped]  # noqa: PLC0415 - no stubs; only this worker has it

    # Without `huge_tree` libxml2 gives what is nested more than 256 deep up in silence: the page would seem empty.
    parser = html.HTMLParser(huge_tree=True, remove_pis=True)
    try:
        # An encoding declared in the text itself must not decode it a second time.
        tree = html.document_fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text), parser=parser, base_url=url)
    except (etree.ParserError, etree.XMLSyntaxError, ValueError, AssertionError):
        return {"title": None, **({"links": [], "truncated": False} if form == "links" else _content(""))}
    elements, depth = _measured(tree)
    if depth > _DEPTH:
        raise ToolRefused(f"this page is nested more than {_DEPTH} deep; it is not read")
    title = _title(tree)
    try:
        tree.make_links_absolute(url, resolve_base_href=True, handle_failures="discard")
    except ValueError:
        # One address that cannot be parsed is no reason to give the page up.
        title = title or None
    if form == "links":
        return {"title": title, **_links(tree)}
    return {"title": title, **_content(_main(tree, form, large=elements > _LARGE))}


def _measured(tree: Any) -> tuple[int, int]:
    """Give the number of elements and how deep they are nested, counting to a little above `_DEPTH`."""
    from lxml import etree  # noqa: PLC0415 - as above

    count = level = deepest = 0
    for event, _ in etree.iterwalk(tree, events=("start", "end")):
        level += 1 if event == "start" else -1
        count += event == "start"
        deepest = max(deepest, level)
        if deepest > _DEPTH:
            break
    return count, deepest


def _title(tree: Any) -> str | None:
    for path in (
        "string(//head/title)",
        "string(//meta[@property='og:title']/@content)",
        "string(//h1)",
        "string(//title)",
    ):
        found = " ".join(str(tree.xpath(path)).split())
        if found:
            return found[:_TITLE_CHARACTERS]
    return None


def _links(tree: Any) -> dict[str, Any]:
    """Collect the links of a page, each once, with the first words that lead there."""
    found: dict[str, str] = {}
    for anchor in tree.iter("a"):
        target = (anchor.get("href") or "").strip().split("#", 1)[0]
        if re.match(r"https?://", target, re.IGNORECASE) and len(target) <= _LINK_CHARACTERS:
            words = " ".join(anchor.text_content().split())[:200]
            found[target] = found.get(target) or words
    links = [{"url": target, "text": words} for target, words in found.items()]
    return {"links": links[:LINKS], "truncated": len(links) > LINKS}


def _main(tree: Any, form: str, *, large: bool) -> str:
    """Extract the main content; of a page without any, and of one too large to be looked through, all of its text."""
    import trafilatura  # noqa: PLC0415 - only the worker that needs it carries it

    if large:
        return trafilatura.html2txt(tree, clean=True) or ""
    markdown = form == "markdown"
    content = trafilatura.extract(
        tree,
        output_format="markdown" if markdown else "txt",
        include_links=markdown,
        include_formatting=markdown,
        include_tables=True,
        include_images=False,
        include_comments=False,
        favor_recall=True,
        deduplicate=False,
        with_metadata=False,
    )
    return content or trafilatura.html2txt(tree, clean=True) or ""
