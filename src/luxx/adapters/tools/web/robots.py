"""What a site allows robots: the Robots Exclusion Protocol (RFC 9309).

Anybody can write a robots.txt, and it is read on the event loop, so that the work on it is bounded. One that is beyond
the bounds allows nothing: it might forbid what was not read of it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote, unquote

NAME: Final = "luxx"
"""The name by which a robots.txt speaks of this crawler."""

LARGEST_BYTES: Final = 512 * 1024
DELAY_SECONDS: Final = 10.0
_LINES: Final = 50_000
_RULES: Final = 5_000
_WORK: Final = 2**25
"""What may be spent on finding pieces of rules in one path: characters of the rules times characters of the path."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """`length` is in octets; `pieces` stand between the wildcards, and `size` characters are in all of them."""

    allow: bool
    length: int
    size: int
    pieces: tuple[str, ...]

    def matches(self, path: str) -> bool:
        """Tell whether a path that begins as the rule does goes on as the rule says.

        Each piece is taken where it occurs first, which leaves the most to those after it.
        """
        first, *between = self.pieces
        if not between:
            return path == first
        last = between.pop()
        at = len(first)
        for piece in between:
            at = path.find(piece, at)
            if at < 0:
                return False
            at += len(piece)
        return path.endswith(last, at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Robots:
    """The rules of one site for us, that which decides first. `delay` is the pause that it asks for, in seconds."""

    rules: tuple[_Rule, ...] = ()
    delay: float = 0.0

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a robots.txt: the groups that name us, else those for all."""
        lines = text.lstrip("\ufeff").splitlines()
        if len(lines) > _LINES:
            return cls.refusing_all()
        named, everyone = _groups(lines)
        ours = named if named is not None else everyone
        paths = [(key == "allow", value) for key, value in ours if key in {"allow", "disallow"} and value]
        if len(paths) > _RULES:
            return cls.refusing_all()
        delays = [
            float(value) for key, value in ours if key == "crawl-delay" and re.fullmatch(r"\d{1,4}(\.\d*)?", value)
        ]
        rules = sorted((_rule(allow, path) for allow, path in paths), key=_weight, reverse=True)
        return cls(rules=tuple(rules), delay=min(max(delays, default=0.0), DELAY_SECONDS))

    @classmethod
    def refusing_all(cls) -> Self:
        return cls(rules=(_rule(allow=False, path="/"),))

    def allows(self, path: str) -> bool:
        """Tell whether a path with its query may be fetched: the longest rule decides, of two the one that allows.

        A path is not allowed if it is so long, and the rules are so many, that to find out would take too long.
        """
        wanted = _normal(path or "/").replace("*", "%2A")
        work = 0
        for rule in self.rules:
            if rule.size > len(wanted) or not wanted.startswith(rule.pieces[0]):
                continue
            if len(rule.pieces) > 2:
                work += rule.size * len(wanted)
                if work > _WORK:
                    return False
            if rule.matches(wanted):
                return rule.allow
        return True


def _groups(lines: Iterable[str]) -> tuple[list[tuple[str, str]] | None, list[tuple[str, str]]]:
    """Collect the lines of the groups that name us (None where there are none), and of those for everyone."""
    named: list[tuple[str, str]] | None = None
    everyone: list[tuple[str, str]] = []
    agents: set[str] = set()
    in_rules = False
    for line in lines:
        key, colon, value = line.split("#", 1)[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            if in_rules:
                agents, in_rules = set(), False
            agents.add((re.match(r"[A-Za-z_-]+|\*", value) or [""])[0].lower())
            continue
        in_rules = True
        if NAME in agents:
            named = named or []
            named.append((key, value))
        if "*" in agents:
            everyone.append((key, value))
    return named, everyone


def _rule(allow: bool, path: str) -> _Rule:
    # A rule that does not end with $ may go on in any way, as if it ended with a wildcard.
    whole = path[:-1] if path.endswith("$") else f"{path}*"
    # An escaped star is one of the path, no wildcard: its escape outlives the normal form.
    normal = _normal(re.sub(r"%2a", "%252A", whole, flags=re.IGNORECASE))
    pieces = tuple(re.split(r"\*+", normal))
    return _Rule(allow, len(path.encode()), sum(map(len, pieces)), pieces)


def _weight(rule: _Rule) -> tuple[int, bool]:
    return rule.length, rule.allow


def _normal(path: str) -> str:
    """Give one spelling to every path: what needs no escape has none, and everything else has one."""
    return quote(unquote(path, errors="surrogateescape"), safe="/*$?&=:@!,;+~'()[]-._%", errors="surrogateescape")
