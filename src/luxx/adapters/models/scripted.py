"""A model that plays what it was told to: for tests, and for those who embed Luxx."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from typing import Self, TypeAlias

from luxx.application.ports import (
    ModelEnd,
    ModelEvent,
    ModelRequest,
    ModelText,
    ModelThinking,
    ModelToolCall,
    UserEntry,
)
from luxx.domain.message import Json, Usage
from luxx.domain.tool import ToolCall

Pause: TypeAlias = asyncio.Event | Callable[[], Awaitable[object]]
"""An event to wait for, or something async to call."""

Cue: TypeAlias = ModelEvent | BaseException | type[BaseException] | Pause
"""One step of a scripted round: an event to give, an exception to raise, or a pause."""


class ScriptExhausted(AssertionError):
    """The model was asked for more rounds than its script has."""


class ScriptedChatModel:
    """A `ChatModel` that plays scripted rounds, one for each request.

    A round is played as it stands: it ends with a `ModelEnd` only if its script does. `requests` holds
    the requests in the order in which they came; `open_streams` counts those that are being read.
    What is no round is a TypeError as soon as it is given.
    """

    def __init__(self, *rounds: Iterable[Cue]) -> None:
        self._rounds = [_round(cues) for cues in rounds]
        self.requests: list[ModelRequest] = []
        self.open_streams = 0
        self.exhausted: ScriptExhausted | None = None
        """What was raised where the script had run out: a service that asks tells it as a fault of its own."""

    @classmethod
    def saying(cls, *texts: str, usage: Usage | None = None) -> Self:
        """Make a model that gives each text, word by word, as the answer of one round."""
        return cls(*(spoken(text, usage=usage) for text in texts))

    def then(self, *rounds: Iterable[Cue]) -> Self:
        """Add rounds to the script; gives the model itself."""
        self._rounds.extend([_round(cues) for cues in rounds])
        return self

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Play the next round; raises what is scripted, or `ScriptExhausted`."""
        self.requests.append(request)
        number = len(self.requests)
        if number > len(self._rounds):
            self.exhausted = ScriptExhausted(
                f"The script has {len(self._rounds)} round(s), and this is request {number}: "
                f"{_asked(request)!r} for model {request.model!r}. Script another round, or find out who asks."
            )
            raise self.exhausted
        self.open_streams += 1
        try:
            for cue in self._rounds[number - 1]:
                if isinstance(cue, ModelText | ModelThinking | ModelToolCall | ModelEnd):
                    yield cue
                elif isinstance(cue, BaseException | type):
                    raise cue
                elif isinstance(cue, asyncio.Event):
                    await cue.wait()
                else:
                    await cue()
        finally:
            self.open_streams -= 1


def _round(cues: object) -> tuple[Cue, ...]:
    if isinstance(cues, str):
        raise TypeError(f"A round is a list of cues, and not a text: spoken({cues!r}) makes one of it.")
    if not isinstance(cues, Iterable):
        raise TypeError(f"A round is a list of cues: [{cues!r}], if that is the only one.")
    found = tuple(cues)
    for cue in found:
        if isinstance(cue, type):
            known = issubclass(cue, BaseException)
        else:
            known = isinstance(cue, ModelEvent | BaseException | asyncio.Event) or callable(cue)
        if not known:
            hint = f": ModelText({cue!r}) says it" if isinstance(cue, str) else ""
            raise TypeError(f"A cue is an event of a model, an exception, or a pause, and not {cue!r}{hint}.")
    return found


def spoken(text: str, *, usage: Usage | None = None, reason: str = "stop") -> tuple[ModelEvent, ...]:
    """Give a round that says `text` word by word and ends."""
    words = text.split(" ")
    deltas = [word + " " for word in words[:-1]] + [words[-1]]
    return (*(ModelText(delta) for delta in deltas if delta), ModelEnd(reason, usage))


def calling(
    *calls: tuple[str, Mapping[str, Json]], text: str = "", ids: str = "call", usage: Usage | None = None
) -> tuple[ModelEvent, ...]:
    """Give a round that asks for tools, by name and arguments, with the ids `call_1`, `call_2` …"""
    asked = (
        ModelToolCall(ToolCall(id=f"{ids}_{number}", name=name, arguments=arguments))
        for number, (name, arguments) in enumerate(calls, start=1)
    )
    return (*((ModelText(text),) if text else ()), *asked, ModelEnd("tool_calls", usage))


def _asked(request: ModelRequest) -> str:
    for entry in reversed(request.entries):
        if isinstance(entry, UserEntry):
            return entry.text[:200]
    return ""
