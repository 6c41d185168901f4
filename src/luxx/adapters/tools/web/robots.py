"""What a site allows robots: the Robots Exclusion Protocol (RFC 9309)."""

import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote, unquote

NAME: Final = "luxx"
"""The name by which a robots.txt speaks of this crawler."""

LARGEST_BYTES: Final = 512 * 1024
DELAY_SECONDS: Final = 10.0
_RULES: Final = 5_000


@dataclass(frozen=True, slots=True)
class _Rule:
    allow: bool
    length: int
    pattern: re.Pattern[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Robots:
    """The rules of one site for us. `delay` is the pause that it asks for, in seconds."""

    rules: tuple[_Rule, ...] = ()
    delay: float = 0.0

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a robots.txt: the groups that name us, else those for all."""
        named, everyone = _groups(text)
        lines = named if named is not None else everyone
        rules = [_rule(key == "allow", value) for key, value in lines if key in {"allow", "disallow"} and value]
        delays = [
            float(value) for key, value in lines if key == "crawl-delay" and re.fullmatch(r"\d{1,4}(\.\d*)?", value)
        ]
        return cls(rules=tuple(rules[:_RULES]), delay=min(max(delays, default=0.0), DELAY_SECONDS))

    @classmethod
    def refusing_all(cls) -> Self:
        return cls(rules=(_rule(allow=False, path="/"),))

    def allows(self, path: str) -> bool:
        """Tell whether a path with its query may be fetched: the longest rule decides, of two the one that allows."""
        wanted = _normal(path or "/")
        found = [rule for rule in self.rules if rule.pattern.match(wanted)]
        return max(found, key=lambda rule: (rule.length, rule.allow)).allow if found else True


def _groups(text: str) -> tuple[list[tuple[str, str]] | None, list[tuple[str, str]]]:
    """Collect the lines of the groups that name us (None where there are none), and of those for everyone."""
    named: list[tuple[str, str]] | None = None
    everyone: list[tuple[str, str]] = []
    agents: set[str] = set()
    in_rules = False
    for line in text.lstrip("\ufeff").splitlines():
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
    anchored = path.endswith("$")
    pieces = re.split(r"\*+", _normal(path.removesuffix("$")))
    # Lazy pieces in a row would be tried in every combination; atomic groups are tried once.
    pattern = re.escape(pieces[0]) + "".join(f"(?>.*?{re.escape(piece)})" for piece in pieces[1:-1])
    if len(pieces) > 1:
        last = re.escape(pieces[-1])
        pattern += f".*{last}" if anchored else f"(?>.*?{last})"
    return _Rule(allow, len(path.encode()), re.compile(pattern + (r"\Z" if anchored else ""), re.DOTALL))


def _normal(path: str) -> str:
    """Give one spelling to every path: what needs no escape has none, and everything else has one."""
    return quote(unquote(path, errors="surrogateescape"), safe="/*$?&=:@!,;+~'()[]-._%", errors="surrogateescape")
