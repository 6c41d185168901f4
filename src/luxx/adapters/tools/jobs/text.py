"""Counting in texts of any language, and regular expressions that cannot explode."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from luxx.domain.errors import ToolRefused

FREQUENT: Final = 20
MATCHES: Final = 100
SHOWN_CHARACTERS: Final = 500
PATTERN_MEMORY: Final = 8 * 2**20

_HAN_AND_KANA: Final = (
    "\u3005-\u3007\u3041-\u309f\u30a1-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_IDEOGRAPHS: Final = re.compile(f"[{_HAN_AND_KANA}]+")
_WORD: Final = re.compile(
    rf"[{_HAN_AND_KANA}]|(?:(?![{_HAN_AND_KANA}])[^\W_])(?:(?![{_HAN_AND_KANA}])\w|['’\-.](?=[^\W_]))*"
)
_SENTENCE_END: Final = re.compile(r"[。！？｡]+[”’」』）)]*|[.!?…]+[\"'”’)\]]*(?=\s|\Z)|\n\s*\n")
_ABBREVIATIONS: Final = frozenset(
    (
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "sr",
        "jr",
        "st",
        "vs",
        "etc",
        "e.g",
        "i.e",
        "cf",
        "no",
        "vol",
        "fig",
        "al",
        "inc",
    )
)
_BREAK: Final = re.compile(r"\r\n|\r|\n")


def analyze_text(text: str, pattern: str | None = None) -> dict[str, Any]:
    """Count what a text is made of; with `pattern` (RE2 syntax) also its matches.

    A word is a run of letters and digits, an apostrophe or hyphen inside included; of Chinese and Japanese,
    which put no spaces, every character counts as one. `characters` are Unicode code points. Raises
    `ToolRefused` for a pattern that is none.
    """
    words = _WORD.findall(text)
    counted: dict[str, Any] = {
        "characters": len(text),
        "characters_without_spaces": sum(not character.isspace() for character in text),
        "words": len(words),
        "lines": _lines(text),
        "sentences": _sentences(text),
        "frequent_words": _frequent(text, words),
    }
    if pattern is not None:
        counted["matches"] = _matches(text, pattern)
    return counted


def _lines(text: str) -> int:
    """Count lines; a break at the very end starts no new one."""
    if not text:
        return 0
    return len(_BREAK.findall(text)) + (not text.endswith(("\n", "\r")))


def _sentences(text: str) -> int:
    count, start = 0, 0
    for end in _SENTENCE_END.finditer(text):
        piece = text[start : end.start()]
        last = piece.rsplit(maxsplit=1)[-1:]
        abbreviated = end[0] == "." and last and last[0].strip("(\"'“‘").casefold() in _ABBREVIATIONS
        if abbreviated and end.end() < len(text):
            continue
        count += any(character.isalnum() for character in piece)
        start = end.end()
    return count + any(character.isalnum() for character in text[start:])


def _frequent(text: str, words: list[str]) -> list[dict[str, Any]]:
    """Find the most frequent words: of Chinese and Japanese, the pairs of characters that come back."""
    counts = Counter(word.casefold() for word in words if not _IDEOGRAPHS.fullmatch(word))
    pairs = Counter(pair for run in _IDEOGRAPHS.findall(text) for pair in _pairs(run))
    counts.update({pair: count for pair, count in pairs.items() if count > 1})
    return [{"word": _short(word), "count": count} for word, count in counts.most_common(FREQUENT)]


def _pairs(run: str) -> Iterator[str]:
    return (run[place : place + 2] for place in range(len(run) - 1))


def _matches(text: str, pattern: str) -> dict[str, Any]:
    import re2  # noqa: PLC0415 - only the worker that needs it carries it

    options = re2.Options()
    options.max_mem = PATTERN_MEMORY
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "it cannot be read"
        if isinstance(reason, bytes):
            reason = reason.decode(errors="replace")
        raise ToolRefused(
            f"the pattern is no regular expression that RE2 knows ({reason}); there are no look-arounds or "
            "backreferences in it"
        ) from error
    items: list[dict[str, Any]] = []
    count, last = 0, (-1, -1)
    for match in compiled.finditer(text):
        # RE2 counts bytes: an empty match can come back at the same character.
        if match.span() == last:
            continue
        last = match.span()
        count += 1
        if len(items) < MATCHES:
            items.append(_match(match))
    return {"count": count, "items": items, "truncated": count > len(items)}


def _match(match: Any) -> dict[str, Any]:
    """Describe one match; `start` and `end` count characters from 0, the end is the first one behind it."""
    shown: dict[str, Any] = {"text": _short(match.group()), "start": match.start(), "end": match.end()}
    if match.groups():
        shown["groups"] = [None if group is None else _short(group) for group in match.groups()[:20]]
    return shown


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
