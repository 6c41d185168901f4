"""What the scripted provider says, known to whoever asks it: the model's name says all of it."""

import functools
import re
from typing import Final

import msgspec

MARK: Final = b"~"
"""Stands once in every token, and nowhere else in a stream before its end."""

_NAME: Final = re.compile(r"(?:paced-(?P<rate>\d+)x(?P<paced>\d+)|fast-(?P<fast>\d+)|wide-(?P<wide>\d+))")
_TOKENS_LIMIT: Final = 1_000_000
_WIDTH: Final = 1000


class Answer(msgspec.Struct, frozen=True):
    """`tokens` tokens, `rate` of them a second, or as fast as they are taken where it is None.

    A token is six bytes of text (` ~0042`), or a thousand where it is `wide`.
    """

    tokens: int
    rate: int | None = None
    wide: bool = False

    @property
    def model(self) -> str:
        """The name of the model that gives this answer."""
        if self.rate is not None:
            return f"paced-{self.rate}x{self.tokens}"
        return f"wide-{self.tokens}" if self.wide else f"fast-{self.tokens}"

    def token(self, number: int) -> str:
        """Give one token: no two neighbours are alike, so that a swap shows."""
        return f" ~{number % 0x10000:04x}" + ("." * (_WIDTH - 6) if self.wide else "")

    @property
    def text(self) -> str:
        """The whole answer."""
        return _text(self)


@functools.lru_cache(maxsize=4)
def _text(answer: Answer) -> str:
    return "".join(map(answer.token, range(answer.tokens)))


def paced(tokens: int, *, rate: int = 50) -> Answer:
    return Answer(tokens=tokens, rate=rate)


def fast(tokens: int) -> Answer:
    return Answer(tokens=tokens)


def wide(tokens: int) -> Answer:
    return Answer(tokens=tokens, wide=True)


def answer_of(model: str) -> Answer | None:
    """Read a model's name: `paced-50x200` is 50 tokens a second, 200 in all; `fast-2000`; `wide-2000`.

    A provider's prefix before a slash is passed over. None where the name says nothing of the kind.
    """
    found = _NAME.fullmatch(model.rpartition("/")[2])
    if found is None:
        return None
    rate = int(found["rate"]) if found["rate"] else None
    tokens = int(found["paced"] or found["fast"] or found["wide"])
    if not 0 < tokens <= _TOKENS_LIMIT or (rate is not None and not 0 < rate <= 1000):
        return None
    return Answer(tokens=tokens, rate=rate, wide=found["wide"] is not None)
